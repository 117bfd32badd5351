"""From masks inside boxes to one map of instances, without a whole image for each object."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from torch import Tensor

from medexp.core.geometry import Placement


def paste(
    mask: Float[Tensor, "*bins"], box: Float[np.ndarray, "corners"], placement: Placement
) -> tuple[tuple[slice, ...], Float[np.ndarray, "*inside"]]:
    """What a mask says of the voxels whose centre lies in its box.

    Between the centres of its bins it is interpolated linearly, and beyond the outermost it falls to 0 at a bin's
    distance, as Mask R-CNN has it; the box is not rounded.

    Args:
        mask: Probabilities on a grid that fills the box.
        box: Lower ends along all axes, then upper ends, in voxels of the network's grid.
        placement: How that lies on the image's grid.

    Returns:
        The part of the image that the box covers, after `Placement.orient`, and the probabilities there.
    """
    dims = mask.ndim
    low, high = box[:dims], box[dims:]
    shape = np.array(placement.oriented_shape)
    scale = shape / np.array(placement.resized_shape)
    first = np.clip(np.ceil(low * scale - 0.5), 0, shape).astype(int)
    stop = np.clip(np.ceil(high * scale - 0.5), first, shape).astype(int)
    inside = tuple(slice(*ends) for ends in zip(first.tolist(), stop.tolist(), strict=True))
    soft = mask.float().numpy()
    for axis, part in enumerate(inside):
        centers = (np.arange(part.start, part.stop) + 0.5) / scale[axis]
        bins = (centers - low[axis]) / (high[axis] - low[axis]) * mask.shape[axis] - 0.5
        # The first axis is used up and comes back as the last.
        soft = np.tensordot(soft, _hats(bins, mask.shape[axis]), axes=(0, 1))
    return inside, soft


def _hats(places: Float[np.ndarray, "n"], count: int) -> Float[np.ndarray, "n count"]:
    """Weights of linear interpolation between values at 0, 1, ..., count - 1, and 0 at a distance of 1 from them."""
    return np.clip(1 - np.abs(places[:, None] - np.arange(count)), 0, None).astype(np.float32)


def instances_of_masks(
    masks: Float[Tensor, "n *bins"],
    boxes: Float[np.ndarray, "n corners"],
    scores: Float[np.ndarray, "n"],
    placement: Placement,
    *,
    threshold: float,
    least_visible: float,
) -> tuple[Integer[np.ndarray, "*spatial"], Integer[np.ndarray, "kept"]]:
    """One map of instances on the image's own grid: a voxel belongs to the surest mask that covers it.

    Args:
        masks: Probabilities on a grid that fills each box.
        boxes: As `paste` takes them.
        scores: The higher, the surer.
        placement: How the network's grid lies on the image's.
        threshold: Probability from which on a voxel belongs to a mask.
        least_visible: Share of its voxels that a mask must keep beside surer ones.

    Returns:
        The map, and which mask is instance 1, 2, ...
    """
    instances = np.zeros(placement.oriented_shape, dtype=np.int32)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        inside, soft = paste(masks[index], boxes[index], placement)
        own = soft >= threshold
        visible = own & (instances[inside] == 0)
        count = np.count_nonzero(visible)
        if count == 0 or count < least_visible * np.count_nonzero(own):
            continue
        kept.append(int(index))
        instances[inside][visible] = len(kept)
    return np.ascontiguousarray(placement.unorient(instances)), np.array(kept, dtype=np.int64)
