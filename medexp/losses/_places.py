"""What losses share that look at where a voxel lies: their probabilities, and distances between voxels."""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from medexp.core.errors import UsageError
from medexp.losses._maps import soft_and_truth


def annotated_soft_and_truth(
    logits: Float[Tensor, "batch channels *spatial"],
    target: Shaped[Tensor, "batch target_channels *spatial"],
    valid: Bool[Tensor, "batch 1 *spatial"] | None,
    *,
    sigmoid: bool,
    include_background: bool,
) -> tuple[Float[Tensor, "batch counted *spatial"], Float[Tensor, "batch counted *spatial"], Tensor]:
    """Probabilities and truth of what counts, both 0 where nobody annotated.

    Args:
        logits: Scores of the classes or regions; any values where a voxel is not valid.
        target: Class index (batch, 1, *spatial), or regions, one a channel.
        valid: Which voxels are annotated; None for all.
        sigmoid: The channels are overlapping regions, all of which count.
        include_background: The first of exclusive classes counts too.

    Returns:
        Probabilities, truth of the same shape, and which voxels are annotated, (batch, 1, *spatial).
    """
    known = torch.ones_like(target[:, :1], dtype=torch.bool) if valid is None else valid
    # Before the softmax, so that not even NaN under an unannotated voxel reaches a gradient.
    soft, truth = soft_and_truth(
        logits.masked_fill(~known, 0.0),
        target.masked_fill(~known, 0),
        sigmoid=sigmoid,
        include_background=include_background,
    )
    return soft * known, truth * known, known


def mean_over_annotated(
    values: Float[Tensor, "batch classes *spatial"], valid: Bool[Tensor, "batch 1 *spatial"]
) -> Float[Tensor, ""]:
    """Mean over the annotated voxels of each image and class, then over images and classes; other voxels hold 0."""
    return (values.flatten(2).sum(dim=2) / valid.flatten(2).sum(dim=2)).mean()


@torch.no_grad()
def distances_between(
    mask: Bool[Tensor, "batch classes *spatial"],
    valid: Bool[Tensor, "batch 1 *spatial"],
    *,
    spacing_mm: Sequence[float] | None,
) -> tuple[Float[Tensor, "batch classes *spatial"], Float[Tensor, "batch classes *spatial"]]:
    """Distance of each voxel to the mask and to what is annotated as not of it, in mm, or in voxels without a spacing.

    Voxels that nobody annotated are of neither. Where one of the two is empty, all distances are 0. They are computed
    on the CPU, by edt.

    Args:
        mask: A mask for each image and class.
        valid: Which voxels are annotated.
        spacing_mm: Distance between voxels along each axis; None for 1.

    Returns:
        Distances to the mask, and to the rest.

    Raises:
        UsageError: `spacing_mm` has not one value for each axis.
    """
    axes = mask.ndim - 2
    if spacing_mm is not None and len(spacing_mm) != axes:
        raise UsageError(f"loss.spacing_mm needs {axes} values, one for each axis, got {list(spacing_mm)}")
    spacing = (1.0,) * axes if spacing_mm is None else tuple(spacing_mm)
    inside = (mask & valid).cpu().numpy()
    outside = (~mask & valid).cpu().numpy()
    found = np.zeros((2, *inside.shape), dtype=np.float32)
    for place in np.ndindex(*inside.shape[:2]):
        if inside[place].any() and outside[place].any():
            for which, chosen in enumerate((inside[place], outside[place])):
                found[which][place] = edt.edt(np.ascontiguousarray(~chosen), anisotropy=spacing, parallel=1)
    to_mask, to_rest = torch.from_numpy(found).to(mask.device)
    return to_mask, to_rest


def check_spacing(spacing_mm: Sequence[float] | None) -> tuple[float, ...] | None:
    """A spacing as numbers; UsageError where one is not above 0."""
    if spacing_mm is None:
        return None
    if not spacing_mm or min(spacing_mm) <= 0:
        raise UsageError(f"loss.spacing_mm needs values above 0, one for each axis, or null, got {list(spacing_mm)}")
    return tuple(map(float, spacing_mm))
