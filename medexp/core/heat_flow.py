"""Directions in which heat flows back to its source in the middle of an object."""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Integer
from scipy import sparse
from scipy.sparse.csgraph import connected_components

_ROUNDING = 1e-12  # share of the heat below which a difference is none; so a middle has no direction


def heat_flows(instances: Integer[np.ndarray, "*spatial"]) -> Float[np.ndarray, "dims *spatial"]:
    """Unit vectors along the gradient of the heat that spreads in each object from its middle; 0 outside.

    The source of heat is the voxel that is nearest to the median place of its object. In each step it becomes 1 warmer,
    and then each voxel takes the mean over itself and its neighbours, of which those outside the object are cold: the
    8 neighbours of a pixel, the 6 of a voxel in 3D. There are twice as many steps as the largest object is long along
    all axes together. Of the heat T the gradient of log(1 + T) is taken. All objects are done at once.

    Each connected part of an object has a source of its own.

    Source: C. Stringer et al., Cellpose: a generalist algorithm for cellular segmentation, Nature Methods 18 (2021),
    Methods.

    Args:
        instances: Ids from 1 on, 0 where there is no object; of 2 or 3 axes.

    Returns:
        Component i is along axis i, in voxels.
    """
    flows = np.zeros((instances.ndim, *instances.shape), dtype=np.float32)
    inside = instances > 0
    if not inside.any():
        return flows
    around = _neighbours(instances)
    heat = np.log1p(_heat(around, np.argwhere(inside)))
    gradient = np.stack([around[step] @ heat - around[tuple(-each for each in step)] @ heat for step in _axes(around)])
    length = np.linalg.norm(gradient, axis=0)
    flows[:, inside] = np.divide(gradient, length, out=np.zeros_like(gradient), where=length > _ROUNDING * heat)
    return flows


def _axes(around: dict[tuple[int, ...], sparse.csr_array]) -> list[tuple[int, ...]]:
    """The steps by one voxel up along each axis."""
    dims = len(next(iter(around)))
    return [tuple(int(i == axis) for i in range(dims)) for axis in range(dims)]


def _neighbours(instances: Integer[np.ndarray, "*spatial"]) -> dict[tuple[int, ...], sparse.csr_array]:
    """For each step to a neighbour, which voxel of the same object it leads to from each voxel inside, as a matrix."""
    dims = instances.ndim
    padded = np.pad(instances, 1)
    inside = padded > 0
    count = int(inside.sum())
    index = np.full(padded.shape, -1)
    index[inside] = np.arange(count)
    ids, places = padded[inside], np.argwhere(inside)
    around = {}
    for step in itertools.product((-1, 0, 1), repeat=dims):
        if not any(step) or (dims == 3 and sum(map(abs, step)) > 1):
            continue
        there = tuple((places + step).T)
        same = np.flatnonzero(padded[there] == ids)
        entries = (np.ones(len(same)), (same, index[there][same]))
        around[step] = sparse.csr_array(entries, shape=(count, count))
    return around


def _heat(
    around: dict[tuple[int, ...], sparse.csr_array], places: Integer[np.ndarray, "voxels dims"]
) -> Float[np.ndarray, "voxels"]:
    """Heat of each voxel inside an object after the last step."""
    joined = sparse.csr_array(sum(around.values()))
    spread = sparse.csr_array((joined + sparse.eye_array(len(places))) / (1 + len(around)))
    n_parts, parts = connected_components(joined, directed=False)
    sources, extent = _sources(places, parts, n_parts)
    heat = np.zeros(len(places))
    for _ in range(2 * extent):
        heat[sources] += 1
        heat = spread @ heat
    return heat


def _sources(
    places: Integer[np.ndarray, "voxels dims"], parts: Integer[np.ndarray, "voxels"], n_parts: int
) -> tuple[Integer[np.ndarray, "parts"], int]:
    """The voxel of each part that is nearest to its median place; and how long the largest is along all axes."""
    order = np.argsort(parts, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(parts, minlength=n_parts))[:-1])
    sources, extent = np.zeros(n_parts, dtype=np.int64), 0
    for part, voxels in enumerate(members):
        at = places[voxels]
        sources[part] = voxels[np.argmin(((at - np.median(at, axis=0)) ** 2).sum(axis=1))]
        extent = max(extent, int((np.ptp(at, axis=0) + 1).sum()))
    return sources, extent
