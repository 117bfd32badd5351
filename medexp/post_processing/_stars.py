"""Star-convex polygons and polyhedra on a grid: which voxels they cover, and how much two of them overlap."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer
from scipy.spatial import ConvexHull

_ENTRIES = 2**21  # of an array that is made at once
_SHORTEST_PX = 1e-3  # so that a star without extent covers its centre
_SLACK = 1e-5  # single precision


class Window:
    """The offsets around a centre, each written by the rays of the cone in which it lies.

    The rays' convex hull divides space into cones of as many rays as there are axes. An offset is the sum of its cone's
    rays, each times a share; it lies in a star with distances d if the shares divided by their distances sum to at most
    1, since the star's border between the ends of those rays is flat.

    Args:
        directions: A vector for each ray, in voxels; they point to all sides.
        reach_px: No star reaches farther.
        shape: Of the image; offsets between two of its voxels suffice.
    """

    def __init__(self, directions: Float[np.ndarray, "rays dims"], reach_px: float, shape: tuple[int, ...]) -> None:
        # One more than the reach: a farther offset is moved to this edge, and lies in no star there either.
        self.half = np.minimum(int(reach_px) + 1, np.array(shape) - 1)
        self.sides = 2 * self.half + 1
        self.hull = ConvexHull(directions / np.linalg.norm(directions, axis=1, keepdims=True))
        corners = directions[self.hull.simplices]  # cones, rays of the cone, axes
        self.cones = np.linalg.inv(corners)
        n_offsets = int(np.prod(self.sides))
        self.rays = np.empty((len(shape), n_offsets), dtype=np.int32)
        self.shares = np.empty((len(shape), n_offsets), dtype=np.float32)
        lengths = np.empty(n_offsets, dtype=np.float32)
        for part in _parts(n_offsets, len(self.cones)):
            offsets = self.offsets(np.arange(part.start, part.stop))
            lengths[part] = np.linalg.norm(offsets, axis=1)
            self.rays[:, part], self.shares[:, part] = self._in_cones(offsets)
        self.nearest_first = np.argsort(lengths, kind="stable")
        self.lengths = lengths[self.nearest_first]

    def offsets(self, places: Integer[np.ndarray, "n"]) -> Integer[np.ndarray, "n dims"]:
        """The offsets at some places."""
        return np.stack(np.unravel_index(places, self.sides), axis=1) - self.half

    def within(self, radius_px: Float[np.ndarray, "n"]) -> Integer[np.ndarray, "n"]:
        """How many of the nearest offsets lie within each radius."""
        counts: np.ndarray = np.searchsorted(self.lengths, radius_px * (1 + _SLACK), side="right")
        return counts

    def _in_cones(
        self, offsets: Integer[np.ndarray, "n dims"]
    ) -> tuple[Integer[np.ndarray, "dims n"], Float[np.ndarray, "dims n"]]:
        """The rays of each offset's cone, and its share of each."""
        outward = self.hull.equations[:, :-1] / -self.hull.equations[:, -1:]
        cone = np.argmax(offsets.astype(np.float32) @ outward.T.astype(np.float32), axis=1)
        return self.hull.simplices[cone].T, np.einsum("nd,ndr->rn", offsets, self.cones[cone])


@dataclass(frozen=True, eq=False)
class Stars:
    """Stars with their centres in voxels of an image.

    Attributes:
        centres: Indices of the voxels.
        distances: To the border along each ray, as multiples of its direction.
        directions: A vector for each ray, in voxels along the axes.
        shape: Of the image; what of a star lies outside counts nowhere.
    """

    centres: Integer[np.ndarray, "n dims"]
    distances: Float[np.ndarray, "n rays"]
    directions: Float[np.ndarray, "rays dims"]
    shape: tuple[int, ...]

    @cached_property
    def inverse(self) -> Float32[np.ndarray, "n rays"]:
        """One over the distances."""
        return (1 / np.maximum(self.distances, _SHORTEST_PX)).astype(np.float32)

    @cached_property
    def reach_px(self) -> Float[np.ndarray, "n"]:
        """Radius of a ball around the centre that encloses the star."""
        lengths = np.linalg.norm(self.directions, axis=1)
        reach_px: np.ndarray = (np.maximum(self.distances, _SHORTEST_PX) * lengths).max(axis=1)
        return reach_px

    @cached_property
    def core_px(self) -> Float[np.ndarray, "n"]:
        """Radius of a ball around the centre that lies in the star."""
        core_px = np.empty(len(self.centres))
        for part in _parts(len(core_px), self.window.cones.size):
            slopes = np.einsum("cdr,ncr->ncd", self.window.cones, self.inverse[part][:, self.window.hull.simplices])
            core_px[part] = 1 / np.linalg.norm(slopes, axis=2).max(axis=1)
        return core_px

    @cached_property
    def window(self) -> Window:
        """Offsets as far as any star reaches."""
        return Window(self.directions, float(self.reach_px.max(initial=0)), self.shape)

    @cached_property
    def voxels(self) -> Integer[np.ndarray, "n"]:
        """Number of the image's voxels that each star covers."""
        counts = np.empty(len(self.centres), dtype=np.int64)
        reach_px = self.reach_px[:, None]
        cut = ((self.centres < reach_px) | (self.centres > np.array(self.shape) - 1 - reach_px)).any(axis=1)
        for chosen in (np.flatnonzero(~cut), np.flatnonzero(cut)):
            ordered = chosen[np.argsort(self.reach_px[chosen])]
            for part in _alike(self.window.within(self.reach_px[ordered])):
                counts[ordered[part]] = self._count(ordered[part], is_cut=bool(cut[ordered[part]].any()))
        return counts

    def _count(self, chosen: Integer[np.ndarray, "m"], *, is_cut: bool) -> Integer[np.ndarray, "m"]:
        """Covered voxels of some stars; voxels of a core need no look unless they may lie outside of the image."""
        core_px, reach_px = self.core_px[chosen].min() * (1 - 2 * _SLACK), self.reach_px[chosen].max()
        sure, last = self.window.within(np.array([0 if is_cut else core_px, reach_px]))
        sure = 0 if is_cut else sure
        places = self.window.nearest_first[sure:last]
        covered = self._gauge(chosen[:, None], places) <= 1 + _SLACK
        if is_cut:
            covered &= self._in_image(self.centres[chosen, None] + self.window.offsets(places))
        counts: np.ndarray = sure + covered.sum(axis=1)
        return counts

    def covered(self, star: int) -> Integer[np.ndarray, "m dims"]:
        """Indices of the image's voxels that one star covers."""
        places = self.window.nearest_first[: self.window.within(self.reach_px[[star]])[0]]
        covered = places[self._gauge(star, places) <= 1 + _SLACK]
        voxels = self.centres[star] + self.window.offsets(covered)
        return voxels[self._in_image(voxels)]

    def shared(
        self, stars: Integer[np.ndarray, "m"], voxels: Integer[np.ndarray, "v dims"]
    ) -> Integer[np.ndarray, "m"]:
        """How many of some voxels of the image each of some stars covers."""
        counts = np.empty(len(stars), dtype=np.int64)
        half, sides = self.window.half, self.window.sides
        for part in _parts(len(stars), len(voxels)):
            places = np.zeros((part.stop - part.start, len(voxels)), dtype=np.int64)
            for axis, centre in enumerate(self.centres[stars[part]].T):
                away = voxels[:, axis] - centre[:, None]
                places *= sides[axis]
                places += np.clip(away, -half[axis], half[axis]) + half[axis]
            counts[part] = (self._gauge(stars[part, None], places) <= 1 + _SLACK).sum(axis=1)
        return counts

    def _gauge(
        self, stars: Integer[np.ndarray, "*stars"] | int, places: Integer[np.ndarray, "*places"]
    ) -> Float32[np.ndarray, "*both"]:
        """For stars and places in their windows: 0 at the centre, 1 on the border, more outside."""
        rays, shares = self.window.rays, self.window.shares
        gauge: np.ndarray = self.inverse[stars, rays[0][places]] * shares[0][places]
        for ray, share in zip(rays[1:], shares[1:], strict=True):
            gauge += self.inverse[stars, ray[places]] * share[places]
        return gauge

    def _in_image(self, voxels: Integer[np.ndarray, "*some dims"]) -> Bool[np.ndarray, "*some"]:
        inside: np.ndarray = ((voxels >= 0) & (voxels < np.array(self.shape))).all(axis=-1)
        return inside


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
