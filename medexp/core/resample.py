"""Changing the number of voxels of a map over the same field of view."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Integer, Shaped
from torch import Tensor

Interpolation = Literal["linear", "cubic"]

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_SMOOTH: dict[str, str] = {"linear": "bilinear", "cubic": "bicubic"}


def resize_linear(maps: Shaped[Tensor, "channels *spatial"], shape: tuple[int, ...]) -> Tensor:
    """Linear interpolation of voxel centres, in fp32; the outer half voxel repeats the border value."""
    if tuple(maps.shape[1:]) == tuple(shape):
        return maps.float()
    return F.interpolate(maps.float()[None], size=shape, mode=_LINEAR[len(shape)], align_corners=False)[0]


def resize_smooth(
    maps: Shaped[Tensor, "channels *spatial"], shape: tuple[int, ...], interpolation: Interpolation
) -> Tensor:
    """Interpolation with a kernel that widens where voxels become fewer, so that what is finer averages out.

    One axis after the other, in fp32. The kernel is a triangle, or the cubic convolution of Keys (IEEE ASSP 29, 1981)
    with a = -1/2, which overshoots at edges; at the border it is cut off and its weights are scaled to a sum of one.

    Args:
        maps: Values on one grid.
        shape: Voxels of the other grid along each axis.
        interpolation: Which kernel.

    Returns:
        Values on the other grid.
    """
    resized = maps.float()
    for axis, want in enumerate(shape, start=1):
        if resized.shape[axis] != want:
            resized = _resize_axis(resized, axis, want, mode=_SMOOTH[interpolation])
    return resized


def _resize_axis(maps: Tensor, axis: int, want: int, *, mode: str) -> Tensor:
    before, have, behind = maps.shape[:axis], maps.shape[axis], maps.shape[axis + 1 :]
    if behind.numel() == 1:
        # Along the rows of one picture, since torch 2.14 gives nonsense for pictures of a single column.
        pictures, size = maps.reshape(1, 1, before.numel(), have), (before.numel(), want)
    else:
        pictures, size = maps.reshape(before.numel(), 1, have, behind.numel()), (want, behind.numel())
    resized = F.interpolate(pictures, size=size, mode=mode, antialias=True, align_corners=False)
    return resized.reshape(*before, want, *behind)


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


def resize_argmax(
    labels: Integer[Tensor, "channels *spatial"], shape: tuple[int, ...], interpolation: Interpolation
) -> Integer[Tensor, "channels *resized"]:
    """The label whose share, interpolated by `resize_smooth`, is largest; of two alike the lower. Keeps the dtype."""
    if tuple(labels.shape[1:]) == tuple(shape):
        return labels
    ids = labels.long()  # torch compares few of the unsigned types
    best = torch.full((ids.shape[0], *shape), -torch.inf)
    chosen = torch.zeros_like(best, dtype=ids.dtype)
    for label in ids.unique():
        share = resize_smooth(ids == label, shape, interpolation)
        larger = share > best
        best[larger], chosen[larger] = share[larger], label
    return chosen.to(labels.dtype)
