"""Star-convex polygons and polyhedra on a grid: which voxels they cover, and how many they have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8
from scipy.sparse import csr_array
from scipy.spatial import ConvexHull

_ENTRIES = 2**18  # of an array that is made at once; as large as stays in the processor's cache
_SHORTEST = 1e-3  # so that a star without extent covers its centre
_SLACK = 1e-5  # single precision
# A star that reaches k times so many voxels, by number of axes, is looked at in every k-th voxel along each axis. What
# two large ones share of the smaller is then off by about .01, and up to .1 where the image's edge cuts them.
_REACH_PX = {2: 15, 3: 8}


class Window:
    """The offsets around a centre, each written by the rays of the cone in which it lies.

    The rays' convex hull divides space into cones of as many rays as there are axes. An offset is the sum of its cone's
    rays, each times a share; it lies in a star with distances d if the shares divided by their distances sum to at most
    1, since the star's border between the ends of those rays is flat.

    Args:
        directions: A vector for each ray, in voxels; they point to all sides.
        reach_px: No star reaches farther.
        shape: Of the image; offsets between two of its voxels suffice.
        step: Every how many voxels there is an offset along each axis.

    Attributes:
        offsets: In voxels, the nearest first.
        shares: Of each ray in each offset.
        rays: Of each cone.
        cones: The matrix by which an offset is multiplied to give the shares, for each cone.
    """

    def __init__(
        self, directions: Float[np.ndarray, "rays dims"], reach_px: float, shape: tuple[int, ...], step: int
    ) -> None:
        hull = ConvexHull(directions / np.linalg.norm(directions, axis=1, keepdims=True))
        self.rays = hull.simplices
        self.cones = np.linalg.inv(directions[self.rays])
        half = np.minimum(int(reach_px * (1 + _SLACK)), np.array(shape) - 1) // step
        offsets = step * (np.indices(2 * half + 1).reshape(len(shape), -1).T - half)
        lengths = np.linalg.norm(offsets, axis=1)
        nearest_first = np.argsort(lengths, kind="stable")
        self.offsets, self._lengths = offsets[nearest_first], lengths[nearest_first]
        outward = hull.equations[:, :-1] / -hull.equations[:, -1:]
        cone = np.empty(len(offsets), dtype=np.int64)
        for part in _parts(len(offsets), len(outward)):
            cone[part] = np.argmax(self.offsets[part] @ outward.T, axis=1)
        shares = np.einsum("nd,ndr->nr", self.offsets, self.cones[cone]).astype(np.float32)
        starts = np.arange(0, shares.size + 1, shares.shape[1])
        self.shares = csr_array((shares.ravel(), self.rays[cone].ravel(), starts), (len(offsets), len(directions)))

    def within(self, radius_px: Float[np.ndarray, "n"]) -> Integer[np.ndarray, "n"]:
        """How many offsets, the nearest ones, lie within each radius."""
        counts: np.ndarray = np.searchsorted(self._lengths, radius_px * (1 + _SLACK), side="right")
        return counts


@dataclass(frozen=True, eq=False)
class Stars:
    """Stars with their centres in voxels of an image; what of a star lies outside of the image counts nowhere.

    Attributes:
        centres: Indices of the voxels.
        distances: To the border along each ray, as multiples of its direction.
        directions: A vector for each ray, in voxels along the axes.
        shape: Of the image.
    """

    centres: Integer[np.ndarray, "n dims"]
    distances: Float[np.ndarray, "n rays"]
    directions: Float[np.ndarray, "rays dims"]
    shape: tuple[int, ...]

    @cached_property
    def reach_px(self) -> Float[np.ndarray, "n"]:
        """Radius of a ball around the centre that encloses the star."""
        lengths = np.linalg.norm(self.directions, axis=1)
        reach_px: np.ndarray = (np.maximum(self.distances, _SHORTEST) * lengths).max(axis=1)
        return reach_px

    @cached_property
    def voxels(self) -> Integer[np.ndarray, "n"]:
        """Number of voxels that each star covers."""
        canvas = np.pad(np.ones(self.shape, dtype=np.uint8), self._margin).ravel()
        return self._marked(np.arange(len(self.centres)), canvas)

    def covered(self, star: int) -> Integer[np.ndarray, "m dims"]:
        """Indices of the voxels that one star covers."""
        window = self._windows[1]
        last = window.within(self.reach_px[[star]])[0]
        part = slice(0, last * len(self.shape))
        gauge = (
            (self._inverse[star][window.shares.indices[part]] * window.shares.data[part]).reshape(last, -1).sum(axis=1)
        )
        voxels = self.centres[star] + window.offsets[:last][gauge <= 1 + _SLACK]
        return voxels[((voxels >= 0) & (voxels < np.array(self.shape))).all(axis=1)]

    def shared(
        self, stars: Integer[np.ndarray, "m"], voxels: Integer[np.ndarray, "v dims"]
    ) -> Integer[np.ndarray, "m"]:
        """How many of some voxels each of some stars covers."""
        places = self._places(voxels)
        self._empty[places] = 1
        counts = self._marked(stars, self._empty)
        self._empty[places] = 0
        return counts

    @cached_property
    def _steps(self) -> Integer[np.ndarray, "n"]:
        """Every how many voxels each star is looked at."""
        return np.maximum(1, self.reach_px // _REACH_PX[len(self.shape)]).astype(np.int64)

    @cached_property
    def _windows(self) -> dict[int, Window]:
        """By the step; with step 1 for all stars."""
        reaches_px = {int(step): self.reach_px[self._steps == step].max() for step in np.unique(self._steps)}
        reaches_px[1] = self.reach_px.max(initial=0)
        return {step: Window(self.directions, float(at), self.shape, step) for step, at in reaches_px.items()}

    @cached_property
    def _inverse(self) -> Float32[np.ndarray, "n rays"]:
        return (1 / np.maximum(self.distances, _SHORTEST)).astype(np.float32)

    @cached_property
    def _core_px(self) -> Float[np.ndarray, "n"]:
        """Radius of a ball around the centre that lies in the star."""
        core_px, window = np.empty(len(self.centres)), self._windows[1]
        for part in _parts(len(core_px), window.cones.size):
            corners = self._inverse[part][:, window.rays]
            slopes = np.einsum("cdr,ncr->ncd", window.cones, corners)  # of what is 1 on the border
            core_px[part] = 1 / np.linalg.norm(slopes, axis=2).max(axis=1)
        return core_px

    @cached_property
    def _margin(self) -> int:
        """Of a canvas around the image: no star reaches farther."""
        return min(int(self.reach_px.max(initial=0) * (1 + _SLACK)), max(self.shape))

    @cached_property
    def _empty(self) -> UInt8[np.ndarray, "canvas"]:
        return np.pad(np.zeros(self.shape, dtype=np.uint8), self._margin).ravel()

    @cached_property
    def _strides(self) -> Integer[np.ndarray, "dims"]:
        sizes = np.array(self.shape) + 2 * self._margin
        return np.cumprod([1, *sizes[:0:-1]])[::-1]

    def _places(self, voxels: Integer[np.ndarray, "v dims"]) -> Integer[np.ndarray, "v"]:
        """Where in a canvas some voxels lie."""
        places: np.ndarray = (voxels + self._margin) @ self._strides
        return places

    def _marked(self, stars: Integer[np.ndarray, "m"], canvas: UInt8[np.ndarray, "canvas"]) -> Integer[np.ndarray, "m"]:
        """How many marked places of a canvas each of some stars covers."""
        counts = np.empty(len(stars), dtype=np.int64)
        for step in np.unique(self._steps[stars]):
            chosen, window = np.flatnonzero(self._steps[stars] == step), self._windows[int(step)]
            chosen = chosen[np.argsort(self.reach_px[stars[chosen]])]
            for part in _alike(window.within(self.reach_px[stars[chosen]])):
                counts[chosen[part]] = self._looked_at(stars[chosen[part]], canvas, window) * step ** len(self.shape)
        return counts

    def _looked_at(
        self, stars: Integer[np.ndarray, "m"], canvas: UInt8[np.ndarray, "canvas"], window: Window
    ) -> Integer[np.ndarray, "m"]:
        """How many marked places under the offsets of a window each star covers; its core needs no closer look."""
        core_px, reach_px = self._core_px[stars].min() * (1 - 2 * _SLACK), self.reach_px[stars].max()
        sure, last = window.within(np.array([core_px, reach_px]))
        away = window.offsets[:last] @ self._strides
        marked = canvas[away[:, None] + self._places(self.centres[stars])]
        marked[sure:] &= self._gauge(window.shares[sure:last], stars) <= 1 + _SLACK
        counts: np.ndarray = marked.sum(axis=0, dtype=np.int32)
        return counts

    def _gauge(self, shares: csr_array, stars: Integer[np.ndarray, "m"]) -> Float32[np.ndarray, "_ m"]:
        """For offsets from the centres of stars by their shares: 0 at the centre, 1 on the border, more outside."""
        gauge: np.ndarray = shares @ np.ascontiguousarray(self._inverse[stars].T)
        return gauge


def _parts(length: int, entries: int) -> Iterator[slice]:
    """Slices of a length, so short that as many entries for each fit into an array that is made at once."""
    step = max(1, _ENTRIES // max(entries, 1))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _alike(sizes: Integer[np.ndarray, "n"]) -> Iterator[slice]:
    """Slices of rising sizes: in none is one more than twice the smallest, and all together are not too many."""
    start = 0
    while start < len(sizes):
        most = max(1, _ENTRIES // int(sizes[start]))
        stop = min(int(np.searchsorted(sizes, 2 * sizes[start], side="right")), start + most)
        yield slice(start, stop)
        start = stop
