"""Dice over all classes together, the rare ones weighted up."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import Counts, check_background, check_smooth, soft_and_truth

_WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "square": lambda voxels: voxels**-2,
    "simple": lambda voxels: voxels**-1,
    "uniform": torch.ones_like,
}


class GeneralisedDice(nn.Module):
    """One minus the generalised Dice of each image (Sudre et al., DLMIA 2017), averaged.

    Agreements and sizes are summed over the classes before they are divided, each class with a weight from its size. A
    class that an image lacks gets the largest weight of the others, as in MONAI; where an image lacks all that count,
    each gets 1. MONAI's GeneralizedDiceLoss gives 0 there whatever is predicted, and drops the first of overlapping
    regions with the background; so the formula is written here.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes, as the paper does.
        weighting: Weight of a class of n voxels: "square" 1 / n^2, "simple" 1 / n, "uniform" 1.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: One value over all voxels of the batch instead of one per image.

    Raises:
        UsageError: A knob is out of range or has no meaning for regions.
    """

    def __init__(
        self,
        *,
        sigmoid: bool,
        include_background: bool,
        weighting: str,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
    ) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        check_smooth("generalised Dice loss", smooth_nr=smooth_nr, smooth_dr=smooth_dr)
        if weighting not in _WEIGHTINGS:
            raise UsageError(f"loss.weighting needs {' or '.join(_WEIGHTINGS)}, got {weighting}")
        self.sigmoid = sigmoid
        self.include_background = include_background
        self.weight_of = _WEIGHTINGS[weighting]
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr
        self.pools_batch = batch

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images; target: class index (batch, 1, *spatial) or regions, one a channel."""
        soft, truth = soft_and_truth(logits, target, sigmoid=self.sigmoid, include_background=self.include_background)
        counts = Counts.of(soft, truth, batch=self.pools_batch)
        voxels = counts.tp + counts.fn
        weights = self._weights(voxels.detach())
        agreement = (weights * 2 * counts.tp).sum(dim=1) + self.smooth_nr
        sizes = (weights * (voxels + counts.tp + counts.fp)).sum(dim=1) + self.smooth_dr
        return (1 - agreement / sizes).mean()

    def _weights(self, voxels: Float[Tensor, "groups classes"]) -> Float[Tensor, "groups classes"]:
        voxels = voxels.round()
        weights = self.weight_of(voxels.clamp_min(1))
        largest = torch.where(voxels > 0, weights, 0.0).amax(dim=1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        return torch.where(voxels > 0, weights, largest)
