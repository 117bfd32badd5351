"""Boundary loss: probability times distance from the true surface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from medexp.losses._maps import check_background
from medexp.losses._places import annotated_soft_and_truth, check_spacing, distances_between, mean_over_annotated


class Boundary(nn.Module):
    """Boundary loss of Kervadec et al. (Med Image Anal 67, 2021): the mean of probability * distance.

    The distance is signed: outside a class's truth how far the truth is; inside, as in the authors' code, minus how far
    the outside is, plus one step, so that the outermost voxels of the truth have 0. A class that an image lacks, or
    that fills it, has no boundary and no loss. Distances are Euclidean, of voxel centres, in voxels unless `spacing_mm`
    is given; on a coarser map of deep supervision they are of that map's voxels. Where nobody annotated, a voxel
    belongs neither to a class nor to its outside.

    It is an auxiliary loss: voxels at the surface have no gradient, and the paper adds it to another loss
    (conf/loss/dice_boundary.yaml). MONAI's BoundaryLoss drops the first of overlapping regions with the background and
    knows no voxels without annotation; so the formula is written here.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes.
        spacing_mm: Distance between voxels along each axis of the network's grid; None for distances in voxels.

    Raises:
        UsageError: A knob is out of range or has no meaning for regions.
    """

    auxiliary = True
    sees_places = True

    def __init__(self, *, sigmoid: bool, include_background: bool, spacing_mm: Sequence[float] | None) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        self.sigmoid = sigmoid
        self.include_background = include_background
        self.spacing_mm = check_spacing(spacing_mm)

    def forward(
        self,
        logits: Float[Tensor, "batch channels *spatial"],
        target: Shaped[Tensor, "batch target_channels *spatial"],
        *,
        valid: Bool[Tensor, "batch 1 *spatial"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over annotated voxels, images and classes; below 0 where the truth is found.

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
        inside = truth > 0
        to_truth, to_outside = distances_between(inside, known, spacing_mm=self.spacing_mm)
        step = 1.0 if self.spacing_mm is None else min(self.spacing_mm)
        signed = torch.where(inside, (step - to_outside).clamp_max(0.0), to_truth)
        return mean_over_annotated(soft * signed, known)
