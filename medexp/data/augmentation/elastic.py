"""Smooth random displacements: cubic B-splines between control points that are moved at random."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Integer

_ITERATIONS = 40
_TOLERANCE_MM = 1e-4


@dataclass(frozen=True, eq=False)
class ElasticField:
    """Displacements around a patch, in millimetres; beside the patch they are those at its edge.

    Control points lie on a grid that covers the patch. Weights of a B-spline are positive and sum to one, so no place
    is displaced further than the control points around it.

    Attributes:
        control: Displacement of each control point along each axis.
        spacing_mm: Distance of the control points.
        half_mm: Half of the patch's extent along each axis; its middle is the origin.
    """

    control: Float[np.ndarray, "dims *grid"]
    spacing_mm: float
    half_mm: tuple[float, ...]

    @classmethod
    def drawn(cls, *, seed: int, largest_mm: float, spacing_mm: float, half_mm: tuple[float, ...]) -> ElasticField:
        """A field whose control points are displaced uniformly by up to `largest_mm` along each axis."""
        grid = [int(2 * half / spacing_mm) + 4 for half in half_mm]
        control = np.random.default_rng(seed).uniform(-largest_mm, largest_mm, size=(len(half_mm), *grid))
        return cls(control=control, spacing_mm=spacing_mm, half_mm=half_mm)

    def along(self, matrix: Float[np.ndarray, "dims dims"]) -> ElasticField:
        """The field whose displacements are those of this one times a matrix."""
        return replace(self, control=np.tensordot(matrix, self.control, axes=1))

    def on_grid(self, places_mm: list[Float[np.ndarray, "_"]]) -> Float32[np.ndarray, "dims *patch"]:
        """Displacements at all combinations of places along the axes."""
        field, axes = self.control.astype(np.float32), list(range(self.control.ndim))
        for axis, places in reversed(list(enumerate(places_mm))):
            first, weights = self._weights(places, axis)
            # A sum over all control points takes a third of the time of one over the four that count.
            matrix = np.zeros((len(places), self.control.shape[axis + 1]), dtype=np.float32)
            np.put_along_axis(matrix, first[:, None] + np.arange(4), weights.T.astype(np.float32), axis=1)
            summed, new = axis + 1, len(axes)
            field = np.einsum(matrix, [new, summed], field, axes, [new if i == summed else i for i in axes])
        return field

    def at(self, points_mm: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, "n dims"]:
        """Displacements at single points."""
        found = [self._weights(points_mm[:, axis], axis) for axis in range(points_mm.shape[1])]
        index = [
            (first[:, None] + np.arange(4)).reshape(-1, *(4 if other == axis else 1 for other in range(len(found))))
            for axis, (first, _) in enumerate(found)
        ]
        everywhere: tuple[Any, ...] = (slice(None), *index)
        values = self.control[everywhere]
        for _, weights in reversed(found):
            values = np.einsum("dn...k,kn->dn...", values, weights)
        return values.T

    def undone(self, points_mm: Float[np.ndarray, "n dims"]) -> Float[np.ndarray, "n dims"]:
        """The points that the field displaces to the given ones, by fixed-point iteration."""
        found = points_mm.copy()
        for _ in range(_ITERATIONS):
            before, found = found, points_mm - self.at(found)
            if np.abs(found - before).max(initial=0.0) < _TOLERANCE_MM:
                break
        return found

    def _weights(
        self, places_mm: Float[np.ndarray, "n"], axis: int
    ) -> tuple[Integer[np.ndarray, "n"], Float[np.ndarray, "4 n"]]:
        """The first of four control points around each place along an axis, and the weights of the four."""
        half = self.half_mm[axis]
        place = (np.clip(places_mm, -half, half) + half) / self.spacing_mm
        first = np.minimum(np.floor(place).astype(np.intp), self.control.shape[axis + 1] - 4)
        t = place - first
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
        return first, weights / 6
