"""Where the frames of a sequence lie in a picture: one plane, upright, large enough to be read."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Integer, Shaped

from medexp.core.geometry import Geometry
from medexp.engine._overlay_planes import Plane, plane_at, widest_axis

# Small frames are enlarged by whole factors up to about this, large ones are shown up to the second size.
_USUAL_PIXELS = 640
_MOST_PIXELS = 2048


@dataclass(frozen=True)
class Scene:
    """How voxels become pixels of a picture.

    Attributes:
        geometry: The grid of a frame.
        plane: What is shown of it; a volume is looked at along `plane.axis`.
        rows: Height of the picture in pixels.
        columns: Width.
    """

    geometry: Geometry
    plane: Plane
    rows: int
    columns: int

    @classmethod
    def of(cls, geometry: Geometry) -> Scene:
        """The scene of a grid; lengths are true to its spacing.

        Rows run down and columns to the right, as arrays have them, unless the world's axes are the patient's.

        Args:
            geometry: In 2D, or in 3D, which is looked at along its widest voxels.

        Returns:
            The scene.
        """
        upright = geometry if geometry.oriented else replace(geometry, unit="px")
        plane = plane_at(upright, widest_axis(upright) if geometry.spatial_dims == 3 else None, 0)
        height, width = plane.size_mm(geometry)
        finest = min(geometry.spacing_mm[axis] for axis in (plane.rows, plane.columns))
        longest = max(height, width) / finest
        scale = max(1, int(_USUAL_PIXELS / longest)) if longest <= _MOST_PIXELS else _MOST_PIXELS / longest
        return cls(geometry, plane, *(max(1, round(length / finest * scale)) for length in (height, width)))

    @property
    def pixels_per_mm(self) -> float:
        """Pixels of the picture along a millimetre (a pixel of the frame where there are none)."""
        return self.columns / self.plane.size_mm(self.geometry)[1]

    @property
    def words(self) -> str:
        """How a volume is looked at; nothing for a picture."""
        return "" if self.plane.axis is None else f"maximum along axis {self.plane.axis}"

    def brightest(self, pixels: Float[np.ndarray, "*spatial"]) -> Float[np.ndarray, "rows columns"]:
        """The pixels of the picture; of a volume the largest value behind each."""
        axis = self.plane.axis
        return self._shown(pixels if axis is None else pixels.max(axis=axis, keepdims=True))

    def foremost(self, ids: Integer[np.ndarray, "*spatial"]) -> Integer[np.ndarray, "rows columns"]:
        """The object at each pixel of the picture; of a volume the first along the axis that is looked along."""
        axis = self.plane.axis
        if axis is not None:
            ids = np.take_along_axis(ids, (ids > 0).argmax(axis=axis, keepdims=True), axis=axis)
        return self._shown(ids)

    def places(self, centres_mm: Float[np.ndarray, "objects dims"]) -> Integer[np.ndarray, "objects 2"]:
        """Column and row of the pixels in which places lie.

        Args:
            centres_mm: Along the axes of the array, from the middle of the first voxel.

        Returns:
            A row for each place.
        """
        found = []
        for axis, flipped, length in (
            (self.plane.columns, self.plane.flip_columns, self.columns),
            (self.plane.rows, self.plane.flip_rows, self.rows),
        ):
            share = (centres_mm[:, axis] / self.geometry.spacing_mm[axis] + 0.5) / self.geometry.shape[axis]
            # A share of .2 of ten pixels is the third, whatever rounding has made of it.
            place = np.floor((1.0 - share if flipped else share) * length + 1e-9)
            found.append(np.clip(place, 0, length - 1).astype(np.int64))
        return np.stack(found, axis=1)

    def _shown(self, array: Shaped[np.ndarray, "*spatial"]) -> np.ndarray:
        cut = self.plane.cut(array, lead=0)
        rows, columns = (
            np.minimum(((np.arange(shown) + 0.5) * length / shown).astype(np.int64), length - 1)
            for shown, length in ((self.rows, cut.shape[0]), (self.columns, cut.shape[1]))
        )
        return cut[rows[:, None], columns[None, :]]
