"""Changing the number of voxels of a map over the same field of view."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Shaped
from torch import Tensor

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_linear(maps: Shaped[Tensor, "channels *spatial"], shape: tuple[int, ...]) -> Tensor:
    """Linear interpolation of voxel centres, in fp32; the outer half voxel repeats the border value."""
    if tuple(maps.shape[1:]) == tuple(shape):
        return maps.float()
    return F.interpolate(maps.float()[None], size=shape, mode=_LINEAR[len(shape)], align_corners=False)[0]


def resize_nearest(labels: Shaped[Tensor, "channels *spatial"], shape: tuple[int, ...]) -> Tensor:
    """The value of the nearest voxel centre, of two the latter; keeps the dtype."""
    if tuple(labels.shape[1:]) == tuple(shape):
        return labels
    index = labels
    for axis, (have, want) in enumerate(zip(labels.shape[1:], shape, strict=True), start=1):
        # Integers, since a centre between two voxels would fall to either by rounding.
        nearest = (2 * torch.arange(want, device=labels.device) + 1) * have // (2 * want)
        index = index.index_select(axis, nearest)
    return index
