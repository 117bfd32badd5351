"""Features of boxes on a grid of fixed size, whatever the size of the box, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

_SAMPLES = 2  # along each axis of a bin, as Mask R-CNN has them
_POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}


def roi_align(
    maps: Float[Tensor, "channels *places"], boxes: Float[Tensor, "n corners"], *, size: int, stride: int = 1
) -> Float[Tensor, "n channels *bins"]:
    """Means over the bins of a grid inside each box, interpolated linearly between places.

    Source: K. He et al., Mask R-CNN, ICCV 2017, section 3: nothing is rounded, and a bin is the mean of samples, here
    two along each axis, that lie regularly in it. A place's value stands for its centre (torchvision's `aligned`).
    Beyond the outermost centres values are those of the border.

    Args:
        maps: Features of an image; place j covers [j, j + 1) * stride.
        boxes: Lower ends along all axes, then upper ends, in voxels of the image.
        size: Bins along each axis.
        stride: Voxels between two places.

    Returns:
        Features in fp32, connected with `maps` even where there is no box.
    """
    dims, channels, count = maps.ndim - 1, maps.shape[0], size * _SAMPLES
    if len(boxes) == 0:
        return maps.float().flatten(1)[:, :0].reshape(0, channels, *[size] * dims)
    grid = _samples(boxes.float() / stride, count, maps.shape[1:])
    # All boxes along one axis of one grid, so that the maps are not copied for each.
    joined = grid.reshape(1, -1, *[count] * (dims - 1), dims)
    with torch.autocast(maps.device.type, enabled=False):
        read = F.grid_sample(maps.float()[None], joined, mode="bilinear", padding_mode="border", align_corners=False)
    by_box = read[0].reshape(channels, len(boxes), *[count] * dims).transpose(0, 1)
    return _POOLS[dims](by_box, _SAMPLES)


def _samples(boxes: Float[Tensor, "n corners"], count: int, shape: Sequence[int]) -> Float[Tensor, "n *samples dims"]:
    """Places of regular samples in boxes, as `grid_sample` takes them: from -1 to 1, the last axis first."""
    dims = len(shape)
    middles = (torch.arange(count, device=boxes.device) + 0.5) / count
    axes = []
    for axis, places in enumerate(shape):
        low, high = boxes[:, axis, None], boxes[:, axis + dims, None]
        scaled = (low + (high - low) * middles) * (2 / places) - 1
        along = [len(boxes), *(count if other == axis else 1 for other in range(dims))]
        axes.append(scaled.reshape(along).expand(len(boxes), *[count] * dims))
    return torch.stack(axes[::-1], dim=-1)


def multi_level_roi_align(
    levels: Sequence[Float[Tensor, "channels *_"]],
    boxes: Float[Tensor, "n corners"],
    *,
    size: int,
    strides: Sequence[int],
) -> Float[Tensor, "n channels *bins"]:
    """`roi_align` on the level of a pyramid that fits each box.

    It is the coarsest in which a box of this volume has a place for every bin, else the finest: with 14 bins and
    strides from 4 to 32 that is eq. 1 of T.-Y. Lin et al., Feature pyramid networks for object detection, CVPR 2017.

    Args:
        levels: Features of an image, finest first.
        boxes: Lower ends along all axes, then upper ends, in voxels of the image.
        size: Bins along each axis.
        strides: Voxels between two places of each level.

    Returns:
        Features in fp32, connected with all levels.
    """
    level_of = _level_of(boxes, size, strides)
    numbers = [torch.nonzero(level_of == level)[:, 0] for level in range(len(levels))]
    read = [
        roi_align(maps, boxes[own], size=size, stride=stride)
        for maps, own, stride in zip(levels, numbers, strides, strict=True)
    ]
    return torch.cat(read)[torch.argsort(torch.cat(numbers))]


def _level_of(boxes: Float[Tensor, "n corners"], size: int, strides: Sequence[int]) -> Integer[Tensor, "n"]:
    dims = boxes.shape[1] // 2
    side = (boxes[:, dims:] - boxes[:, :dims]).clamp(min=0).prod(dim=1) ** (1 / dims)
    coarser = side.new_tensor(strides[1:]) * size
    return (side[:, None] >= coarser).sum(dim=1)
