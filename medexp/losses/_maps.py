"""What the losses share: probabilities beside what is true, counts of agreement, checks of knobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from medexp.core.errors import UsageError


def full_precision(logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Half precision as fp32: sums over voxels overflow fp16, whose largest number is 65504, and bf16 has 8 bits."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def soft_and_truth(
    logits: Float[Tensor, "batch channels *spatial"],
    target: Shaped[Tensor, "batch target_channels *spatial"],
    *,
    sigmoid: bool,
    include_background: bool,
) -> tuple[Float[Tensor, "batch counted *spatial"], Float[Tensor, "batch counted *spatial"]]:
    """Probabilities and truth of each class or region that counts.

    Args:
        logits: Scores of the classes or regions.
        target: Class index (batch, 1, *spatial), or regions, one a channel.
        sigmoid: The channels are overlapping regions, all of which count.
        include_background: The first of exclusive classes counts too.

    Returns:
        Probabilities, and 0 or 1 of the same shape.
    """
    logits = full_precision(logits)
    if sigmoid:
        return logits.sigmoid(), target.to(logits.dtype)
    soft = logits.softmax(dim=1)
    truth = torch.zeros_like(soft).scatter_(1, target.long(), 1.0)
    first = 0 if include_background else 1
    return soft[:, first:], truth[:, first:]


def voxel_cross_entropy(
    logits: Float[Tensor, "batch channels *spatial"],
    target: Shaped[Tensor, "batch target_channels *spatial"],
    *,
    sigmoid: bool,
) -> Float[Tensor, "batch target_channels *spatial"]:
    """Cross-entropy of each voxel, and of each region where they overlap; arguments as of `soft_and_truth`."""
    logits = full_precision(logits)
    if sigmoid:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="none")
    return F.cross_entropy(logits, target[:, 0].long(), reduction="none")[:, None]


def missing_probability(cross_entropy: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """1 - p to full precision, p the probability of the truth; a floor keeps the slope of a power below 1 finite."""
    return (-torch.expm1(-cross_entropy)).clamp_min(torch.finfo(cross_entropy.dtype).tiny ** 0.5)


@dataclass(frozen=True)
class Counts:
    """Soft numbers of voxels on which prediction and truth agree or not.

    Attributes:
        tp: True positives, (groups, classes).
        fp: False positives.
        fn: False negatives.
        tn: True negatives.
    """

    tp: Float[Tensor, "groups classes"]
    fp: Float[Tensor, "groups classes"]
    fn: Float[Tensor, "groups classes"]
    tn: Float[Tensor, "groups classes"]

    @classmethod
    def of(
        cls,
        soft: Float[Tensor, "batch classes *spatial"],
        truth: Float[Tensor, "batch classes *spatial"],
        *,
        batch: bool,
    ) -> Counts:
        """Count.

        Args:
            soft: Probabilities.
            truth: 0 or 1.
            batch: One group of all images instead of one for each.

        Returns:
            The counts.
        """
        pairs = ((soft, truth), (soft, 1 - truth), (1 - soft, truth), (1 - soft, 1 - truth))
        sums = [(first * second).flatten(2).sum(dim=2) for first, second in pairs]
        return cls(*(value.sum(dim=0, keepdim=True) if batch else value for value in sums))

    @property
    def of_complements(self) -> Counts:
        """The same, asked of everything but the class."""
        return Counts(tp=self.tn, fp=self.fn, fn=self.fp, tn=self.tp)


def check_background(*, sigmoid: bool, include_background: bool) -> None:
    """Refuse a background among overlapping regions."""
    if sigmoid and include_background:
        raise UsageError(
            "loss.include_background=true has no meaning for overlapping regions, which have no background; "
            "set it to false"
        )


def check_smooth(name: str, *, smooth_nr: float, smooth_dr: float) -> None:
    """Refuse smoothing with which an empty class divides by zero."""
    if smooth_nr < 0 or smooth_dr <= 0:
        raise UsageError(
            f"{name} needs smooth_nr >= 0 and smooth_dr > 0 (an empty class divides by smooth_dr), "
            f"got smooth_nr={smooth_nr}, smooth_dr={smooth_dr}"
        )


def check_overlapping(name: str, *, sigmoid: bool) -> None:
    """Refuse classes that exclude each other to a loss that judges each label or region for itself."""
    if not sigmoid:
        raise UsageError(
            f"loss={name} is of labels or regions that may hold at once, and these classes exclude each other; choose "
            "loss=cross_entropy, or task.multi_label=true (of images), task=semantic_regions (of voxels)"
        )


def checked_weight(weight: Sequence[float] | None, *, key: str = "loss.weight") -> tuple[float, ...] | None:
    """Factors on classes or regions as numbers; UsageError where one is negative or none is above 0."""
    if weight is None:
        return None
    if min(weight, default=0) < 0 or max(weight, default=0) <= 0:
        raise UsageError(f"{key} needs values >= 0, one of them above 0, got {list(weight)}")
    return tuple(float(value) for value in weight)


def weight_like(
    weight: tuple[float, ...], values: Tensor, *, classes: int, key: str = "loss.weight"
) -> Float[Tensor, "classes"]:
    """Factors on classes beside values of a loss.

    Args:
        weight: A factor for each class.
        values: Whose kind and device they get.
        classes: How many there are.
        key: The knob, for the error.

    Returns:
        The factors.

    Raises:
        UsageError: There are more or fewer than classes.
    """
    if len(weight) != classes:
        raise UsageError(f"{key} needs {classes} values, one for each class that counts, got {weight}")
    return torch.tensor(weight, dtype=values.dtype, device=values.device)
