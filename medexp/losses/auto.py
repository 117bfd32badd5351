"""Which loss a dataset asks for: the one rule behind `loss=auto`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from torch import Tensor, nn

from medexp.core.errors import UsageError


class Auto(nn.Module):
    """Three losses, one of which a study trains with; `choose` says which when the study starts.

    Args:
        two_classes: For the background and one class.
        several_classes: For more classes, or several overlapping regions.
        imbalanced: For classes one of which is rare.
        imbalance_below: Share of the voxels below which a class is rare, from 0 (none is) to 1.

    Raises:
        UsageError: The share is out of range, or, when called, the choice is still open.
    """

    def __init__(
        self, *, two_classes: nn.Module, several_classes: nn.Module, imbalanced: nn.Module, imbalance_below: float
    ) -> None:
        super().__init__()
        if not 0 <= imbalance_below <= 1:
            raise UsageError(f"loss.imbalance_below needs a share from 0 to 1, got {imbalance_below}")
        self.two_classes = two_classes
        self.several_classes = several_classes
        self.imbalanced = imbalanced

    def forward(self, logits: Tensor, target: Tensor) -> NoReturn:
        """Refuse: training chooses one of the losses first."""
        raise UsageError("loss=auto is chosen when training starts; train with it, or give a loss, e.g. loss=dice")


@dataclass(frozen=True)
class Choice:
    """One of the losses of `Auto`.

    Attributes:
        option: Its name there.
        reason: Why it was chosen.
    """

    option: str
    reason: str


def choose(shares: Mapping[str, float], *, overlapping: bool, imbalance_below: float) -> Choice:
    """The rule: cross-entropy for two classes, Dice for several, focal where a rare class competes with the background.

    By a softmax, every class competes with the background; so does one region alone, which is the same as two classes.
    Several overlapping regions are each compared with their own truth by Dice, and no background is among them, so that
    a rare one asks for no other loss.

    Args:
        shares: Share of each class or region among the voxels of the training cases.
        overlapping: They are regions that may overlap.
        imbalance_below: Share below which a class is rare.

    Returns:
        The choice.
    """
    if overlapping and len(shares) > 1:
        return Choice("several_classes", f"{len(shares)} overlapping regions, each compared alone")
    rarest = min(shares, key=lambda name: shares[name])
    told = f"{rarest} has {shares[rarest]:.2%} of the voxels"
    if shares[rarest] < imbalance_below:
        return Choice("imbalanced", f"the background competes, and {told}, fewer than {imbalance_below:.2%}")
    if len(shares) == 1:
        return Choice("two_classes", f"background and one class; {told}")
    return Choice("several_classes", f"{len(shares)} classes beside the background; {told}, the fewest")
