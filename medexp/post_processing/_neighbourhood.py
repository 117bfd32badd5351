"""The voxels around a voxel: those within a distance, or those of a window; and what is highest or usual there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import Prediction
from medexp.post_processing._knobs import check_positive

# Distances are computed in single precision from spacings in single precision.
_SLACK = 1 + 1e-5


@dataclass(frozen=True)
class Reach:
    """Which voxels lie around one, as a configuration says it.

    Attributes:
        radius_mm: All voxels whose centre lies within this distance; None where a window is given.
        window: Voxels along each axis of a window, odd; one number for all axes; None where a radius is given.
    """

    radius_mm: float | None
    window: int | tuple[int, ...] | None

    @classmethod
    def of(cls, radius_mm: float | None, window: int | Sequence[int] | None, step: str) -> Reach:
        """The reach that a step's knobs say, checked.

        Args:
            radius_mm: The radius, or None.
            window: The window, or None.
            step: Name of the step, for errors.

        Returns:
            The reach.

        Raises:
            UsageError: None of both is given or both are, the radius is not above 0, or the window is not odd.
        """
        if (radius_mm is None) == (window is None):
            raise UsageError(
                f"{step} needs one of {step}.radius_mm and {step}.window and null for the other, got {radius_mm!r} and "
                f"{window!r}"
            )
        if radius_mm is not None:
            return cls(check_positive(radius_mm, f"{step}.radius_mm"), None)
        sides = [window] if isinstance(window, int) else window
        if isinstance(sides, str) or not isinstance(sides, Sequence) or not sides or not all(map(_is_odd, sides)):
            raise UsageError(
                f"{step}.window needs an odd number of voxels, or one for each axis (a window has a middle), got "
                f"{window!r}"
            )
        return cls(None, window if isinstance(window, int) else tuple(sides))

    def on(self, prediction: Prediction, step: str) -> Neighbourhood:
        """The neighbourhood on the grid of a prediction.

        Args:
            prediction: What has the grid.
            step: Name of the step, for errors.

        Returns:
            The neighbourhood.

        Raises:
            UsageError: The window has sides for another number of axes.
        """
        spacing_mm = prediction.geometry.spacing_mm
        if self.radius_mm is not None:
            return Neighbourhood.within(self.radius_mm, spacing_mm)
        assert self.window is not None
        sides = (self.window,) * len(spacing_mm) if isinstance(self.window, int) else self.window
        if len(sides) != len(spacing_mm):
            raise UsageError(
                f"{step}.window has {len(sides)} sides, and case {prediction.case_id} has {len(spacing_mm)} axes; give "
                "one number, or one for each axis"
            )
        return Neighbourhood(tuple(side // 2 for side in sides), None, spacing_mm)


@dataclass(frozen=True)
class Neighbourhood:
    """The voxels around one on a grid; what lies outside the image is never one of them.

    Attributes:
        half: Voxels that it reaches to each side along each axis.
        radius_mm: Radius of an ellipsoid of voxels; None for the whole box.
        spacing_mm: Distance between neighbouring voxels along each axis.
    """

    half: tuple[int, ...]
    radius_mm: float | None
    spacing_mm: tuple[float, ...]

    @classmethod
    def within(cls, radius_mm: float, spacing_mm: Sequence[float]) -> Neighbourhood:
        """All voxels whose centre lies within a distance of the voxel's own."""
        half = tuple(math.floor(radius_mm * _SLACK / spacing) for spacing in spacing_mm)
        return cls(half, radius_mm, tuple(spacing_mm))

    def footprint(self) -> Bool[np.ndarray, "*sides"]:
        """The neighbourhood as a mask with the voxel itself in its middle."""
        if self.radius_mm is None:
            return np.ones([2 * half + 1 for half in self.half], dtype=bool)
        axes = [spacing * np.arange(-half, half + 1) for half, spacing in zip(self.half, self.spacing_mm, strict=True)]
        squared: np.ndarray = sum(offset**2 for offset in np.meshgrid(*axes, indexing="ij"))
        return squared <= (self.radius_mm * _SLACK) ** 2

    def highest(self, array: Shaped[np.ndarray, "*spatial"]) -> Shaped[np.ndarray, "*spatial"]:
        """The highest value around each voxel (max-pooling without a stride)."""
        if self.radius_mm is None:
            size = [2 * half + 1 for half in self.half]
            pooled: np.ndarray = ndimage.maximum_filter(array, size=size, mode="nearest")
            return pooled
        lines = {half: _highest_along_lines(array, half) for half in set(self._chords().values())}
        result = array.copy()
        for offset, half in self._chords().items():
            to, source = _shifted(offset)
            np.maximum(result[to], lines[half][source], out=result[to])
        return result

    def lowest(self, array: Float[np.ndarray, "*spatial"]) -> Float[np.ndarray, "*spatial"]:
        """The lowest value around each voxel (min-pooling without a stride)."""
        return -self.highest(-array)

    def median(self, array: Float[np.ndarray, "*spatial"]) -> Float[np.ndarray, "*spatial"]:
        """The median around each voxel; what lies outside the image is like the nearest voxel inside."""
        found: np.ndarray = ndimage.median_filter(array, footprint=self.footprint(), mode="nearest")
        return found

    def majority(self, mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
        """Whether more than half of the voxels around each are true, which is the median of a mask."""
        widths = [(half, half) for half in self.half]
        padded = np.pad(mask, widths, mode="edge").astype(np.int32)
        chords = self._chords()
        lines = {half: _sums_along_lines(padded, half) for half in set(chords.values())}
        inner = (slice(self.half[-1], self.half[-1] + mask.shape[-1]),)
        count = np.zeros(mask.shape, dtype=np.int32)
        for offset, half in chords.items():
            starts = [own + step for own, step in zip(self.half, offset, strict=False)]
            part = tuple(slice(start, start + size) for start, size in zip(starts, mask.shape, strict=False))
            count += lines[half][part + inner]
        return 2 * count > self.footprint().sum()

    def dilated(self, mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
        """Whether one of the voxels around each is true."""
        if self.radius_mm is None:
            return self.highest(mask.view(np.uint8)).view(bool)
        return distances_to(mask, self.spacing_mm) <= self.radius_mm * _SLACK

    def eroded(self, mask: Bool[np.ndarray, "*spatial"]) -> Bool[np.ndarray, "*spatial"]:
        """Whether all voxels around each are true."""
        return ~self.dilated(~mask)

    def _chords(self) -> dict[tuple[int, ...], int]:
        """By offset along all axes but the last, how far the neighbourhood reaches to each side along the last."""
        footprint = self.footprint()
        counts = footprint.sum(axis=-1)
        sides = [range(-half, half + 1) for half in self.half[:-1]]
        found = zip(itertools.product(*sides), counts.ravel().tolist(), strict=True)
        return {offset: (count - 1) // 2 for offset, count in found if count}


def distances_to(mask: Bool[np.ndarray, "*spatial"], spacing_mm: Sequence[float]) -> Float[np.ndarray, "*spatial"]:
    """Distance in mm of each voxel's centre to that of the nearest voxel that is true; infinite where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, dtype=np.float32)
    found: np.ndarray = edt.edt(np.ascontiguousarray(~mask), anisotropy=tuple(spacing_mm), parallel=1)
    return found


def _is_odd(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side >= 1 and side % 2 == 1


def _highest_along_lines(array: Shaped[np.ndarray, "*spatial"], half: int) -> Shaped[np.ndarray, "*spatial"]:
    found: np.ndarray = ndimage.maximum_filter1d(array, 2 * half + 1, axis=-1, mode="nearest")
    return found


def _sums_along_lines(array: Shaped[np.ndarray, "*spatial"], half: int) -> Shaped[np.ndarray, "*spatial"]:
    found: np.ndarray = ndimage.correlate1d(array, np.ones(2 * half + 1, dtype=np.int32), axis=-1, mode="constant")
    return found


def _shifted(offset: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where voxels lie that have a neighbour at an offset along the first axes, and where that neighbour lies."""
    to = tuple(slice(max(0, -step), -step if step > 0 else None) for step in offset)
    source = tuple(slice(max(0, step), step if step < 0 else None) for step in offset)
    return to, source
