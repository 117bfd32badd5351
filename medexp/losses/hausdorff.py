"""Squared errors, weighted by how far they lie from the surfaces of truth and prediction."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import check_background
from medexp.losses._places import annotated_soft_and_truth, check_spacing, distances_between, mean_over_annotated


class Hausdorff(nn.Module):
    """Hausdorff loss by distance transforms (Karimi & Salcudean, IEEE TMI 39, 2020).

    The mean over voxels of (p - g)^2 (d_g^alpha + d_p^alpha): p is the probability, g the truth, and d how far a voxel
    is from the other side of the surface of g, and of p > 1/2. A surface that an image lacks adds no distance; where it
    lacks both, there is no loss. Distances are Euclidean, of voxel centres, in voxels unless `spacing_mm` is given; on
    a coarser map of deep supervision they are of that map's voxels. Where nobody annotated, a voxel is on neither side.

    It is an auxiliary loss: while nothing is predicted in an image without the class it is 0, and its size depends on
    the image's; the paper adds it to Dice (conf/loss/dice_hausdorff.yaml). MONAI's HausdorffDTLoss drops the first of
    overlapping regions with the background and knows no voxels without annotation; so the formula is written here.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes.
        alpha: Exponent of the distances, above 0; the paper's is 2.
        spacing_mm: Distance between voxels along each axis of the network's grid; None for distances in voxels.

    Raises:
        UsageError: A knob is out of range or has no meaning for regions.
    """

    auxiliary = True
    sees_places = True

    def __init__(
        self, *, sigmoid: bool, include_background: bool, alpha: float, spacing_mm: Sequence[float] | None
    ) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        if alpha <= 0:
            raise UsageError(f"loss.alpha needs a value above 0, got {alpha}")
        self.sigmoid = sigmoid
        self.include_background = include_background
        self.alpha = alpha
        self.spacing_mm = check_spacing(spacing_mm)

    def forward(
        self,
        logits: Float[Tensor, "batch channels *spatial"],
        target: Shaped[Tensor, "batch target_channels *spatial"],
        *,
        valid: Bool[Tensor, "batch 1 *spatial"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over annotated voxels, images and classes.

        Args:
            logits: Scores of the classes or regions.
            target: Class index (batch, 1, *spatial) or regions, one a channel.
            valid: Which voxels are annotated; None for all.

        Returns:
            The loss.
        """
        soft, truth, known = annotated_soft_and_truth(
            logits, target, valid, sigmoid=self.sigmoid, include_background=self.include_background
        )
        distances = self._across(truth > 0, known) + self._across(soft > 0.5, known)
        return mean_over_annotated((soft - truth) ** 2 * distances, known)

    def _across(self, mask: Tensor, known: Tensor) -> Tensor:
        """The distance of each voxel from the other side of a mask's surface, to the power alpha."""
        to_mask, to_rest = distances_between(mask, known, spacing_mm=self.spacing_mm)
        return torch.where(mask, to_rest, to_mask) ** self.alpha
