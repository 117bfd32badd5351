"""Directions in which an object's border is looked for, and how far away it lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer
from scipy import ndimage


def circle(n_rays: int) -> Float[np.ndarray, "rays 2"]:
    """Unit vectors at equal angles; the first along the last axis, the next turned towards the first axis."""
    angle = 2 * np.pi * np.arange(n_rays) / n_rays
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)


def spiral(n_rays: int) -> Float[np.ndarray, "rays 3"]:
    """Unit vectors of a Fibonacci lattice on the sphere, from pole to pole along the first axis."""
    angle = (3 - np.sqrt(5)) * np.pi * np.arange(n_rays)
    height = np.linspace(-1, 1, n_rays)
    radius = np.sqrt(1 - height**2)
    return np.stack([height, radius * np.sin(angle), radius * np.cos(angle)], axis=1)


def in_voxels(vectors: Float[np.ndarray, "rays dims"], anisotropy: Sequence[float]) -> Float[np.ndarray, "rays dims"]:
    """Unit vectors in voxels along vectors in space, where `anisotropy` is the size of a voxel along each axis."""
    scaled = vectors / np.asarray(anisotropy, dtype=np.float64)
    unit: np.ndarray = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit


def distances_along(
    instances: Integer[np.ndarray, "*spatial"], directions: Float[np.ndarray, "rays dims"]
) -> Float32[np.ndarray, "rays *spatial"]:
    """Distance of each voxel of an object to the object's border along each ray, in voxels; 0 outside of objects.

    A ray is walked in steps of one voxel until the voxel under it is none of the object or lies outside of the image.
    The last step, which leads from within to without, counts as half of what a ray needs from face to face.

    Source: `star_dist` of U. Schmidt et al., MICCAI 2018, which the authors' program has for pictures; in volumes it
    counts the last step in full, here it does not.

    Args:
        instances: Ids from 1 on, 0 where there is no object.
        directions: A unit vector in voxels for each ray.

    Returns:
        The distances.
    """
    # An edge of background, where a ray that leaves the image stops; ids are as short as can be, for speed.
    ids = np.pad(instances.astype(np.min_scalar_type(int(instances.max(initial=0)))), 1)
    inside = ids > 0
    steps = np.empty(ids.shape, dtype=np.min_scalar_type(_longest_px(ids)))
    found = np.empty((len(directions), *instances.shape), dtype=np.float32)
    within = (slice(1, -1),) * ids.ndim
    for direction, distances in zip(directions, found, strict=True):
        _count_steps(ids, inside, direction, steps)
        np.add(steps[within], np.float32(0.5 / np.abs(direction).max()), out=distances, casting="same_kind")
        distances *= inside[within]
    return found


def _longest_px(ids: Integer[np.ndarray, "*spatial"]) -> int:
    """No ray makes more steps inside an object."""
    boxes = [box for box in ndimage.find_objects(ids) if box is not None]
    return max((sum(axis.stop - axis.start for axis in box) for box in boxes), default=0)


def _count_steps(
    ids: Integer[np.ndarray, "*padded"],
    inside: Bool[np.ndarray, "*padded"],
    direction: Float[np.ndarray, "dims"],
    steps: Integer[np.ndarray, "*padded"],
) -> None:
    """Write into `steps` for how many steps of length one each voxel's ray stays in its object."""
    steps[...] = 0
    flat_ids, flat_steps, walking = ids.ravel(), steps.ravel(), inside.flatten()
    same, ones = np.empty_like(walking), walking.view(np.uint8)
    strides = np.array(ids.strides) // ids.itemsize
    number = 0
    while True:
        number += 1
        away = int(np.rint(number * direction).astype(int) @ strides)
        # Who still walks is at most one step outside of the image, and thus in the array; the others do not matter.
        here, there = slice(max(0, -away), ids.size - max(0, away)), slice(max(0, away), ids.size - max(0, -away))
        walking[here] &= np.equal(flat_ids[here], flat_ids[there], out=same[here])
        if not walking[here].any():
            return
        flat_steps[here] += ones[here]
