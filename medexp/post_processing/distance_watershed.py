"""Instances from a mask, divided where it is narrow."""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import find_objects

from medexp.core.errors import UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._components import most_voxels_of, voxels_of
from medexp.post_processing._flood import flooded, peaks_above
from medexp.post_processing._instances import check_exclusive, with_instances
from medexp.post_processing._joining import joined
from medexp.post_processing._knobs import check_connectivity, check_positive, check_volume
from medexp.post_processing._masks import mask_of

_WAYS = ("drop", "join")


class DistanceWatershed:
    """Divide each connected part of a class at its necks: a watershed on the depth below its surface.

    The depth of a voxel is its distance in mm to the nearest voxel that is not of its class; what lies outside the
    image is unknown and no surface. A place that is deepest is a seed where every way from it to a deeper one rises by
    at least `h_mm`; from the seeds a watershed floods the part, from deep places to shallow ones. A part without a
    seed is one object. An object's score is the mean probability of its class inside it, where there are probabilities.

    Source: N. Malpica et al., Applying watershed algorithms to the segmentation of clustered nuclei, Cytometry 28
    (1997); the h-maxima of P. Soille, Morphological Image Analysis, Springer 2003, chapter 6.

    Args:
        h_mm: Least difference in depth between a seed and the neck to a deeper one; pixels where `Geometry.unit` is
            "px". The larger, the fewer objects.
        connectivity: Of the voxels of an object: "faces", neighbours share a face, or "corners", they may share a
            corner only.
        min_volume_mm3: Smallest object that stays as it is, in mm3; in 2D in mm2, and in pixels where `Geometry.unit`
            is "px".
        max_volume_mm3: Largest object that stays, in the same unit, after small ones were joined; None for any.
        small: What becomes of an object below the smallest: "drop", it becomes background, or "join", it becomes a
            part of the object of its class that it shares most of its surface with, and is dropped where there is none.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.INSTANCES

    def __init__(
        self,
        *,
        h_mm: float = 1.0,
        connectivity: str = "faces",
        min_volume_mm3: float = 0.0,
        max_volume_mm3: float | None = None,
        small: str = "drop",
    ) -> None:
        self.h_mm = check_positive(h_mm, "distance_watershed.h_mm")
        self.connectivity = check_connectivity(connectivity, "distance_watershed")
        self.min_volume_mm3 = check_volume(min_volume_mm3, "distance_watershed.min_volume_mm3")
        self.max_volume_mm3 = (
            None if max_volume_mm3 is None else check_volume(max_volume_mm3, "distance_watershed.max_volume_mm3")
        )
        if self.max_volume_mm3 is not None and self.max_volume_mm3 < self.min_volume_mm3:
            raise UsageError(
                f"distance_watershed.max_volume_mm3 needs at least min_volume_mm3={min_volume_mm3}, got "
                f"{max_volume_mm3}"
            )
        if small not in _WAYS:
            raise UsageError(f"distance_watershed.small needs {' or '.join(_WAYS)}, got {small!r}")
        self.small = small

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the instances.

        Args:
            prediction: What an earlier step gave, with a mask of one layer.

        Returns:
            The prediction with instances, objects, and a mask that shows them.

        Raises:
            UsageError: There is no mask, or the classes overlap.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        check_exclusive(prediction, "distance_watershed")
        layer, geometry = mask_of(prediction, "distance_watershed")[0], prediction.geometry
        least = max(voxels_of(self.min_volume_mm3, geometry), 1)
        most = most_voxels_of(self.max_volume_mm3, geometry)
        numbers, values = np.zeros(layer.shape, dtype=np.int32), dict[int, int]()
        for structure in prediction.classes:
            box = _box_around(layer == structure.value)
            if box is None:
                continue
            foreground, before = layer[box] == structure.value, max(values, default=0)
            own = _divided(foreground, self.h_mm, geometry.spacing_mm, self.connectivity)
            if self.small == "join":
                own = joined(own, least, geometry.spacing_mm)
            voxels = np.bincount(own.ravel())
            kept = [number for number in range(1, len(voxels)) if least <= voxels[number] <= most]
            values.update(dict.fromkeys((before + number for number in kept), structure.value))
            inside = np.isin(own, kept)
            numbers[box][inside] = own[inside] + before
        return with_instances(prediction, numbers, values, "distance_watershed")


def _divided(
    foreground: Bool[np.ndarray, "*spatial"], h_mm: float, spacing_mm: Sequence[float], connectivity: str
) -> Integer[np.ndarray, "*spatial"]:
    """Number of the object of each voxel, 0 outside the foreground."""
    depth_mm = _depth(foreground, spacing_mm)
    return flooded(depth_mm, peaks_above(depth_mm, h_mm, connectivity), foreground, connectivity)


def _depth(foreground: Bool[np.ndarray, "*spatial"], spacing_mm: Sequence[float]) -> Float[np.ndarray, "*spatial"]:
    """Distance in mm to the nearest voxel of the background; 0 where there is no background at all."""
    if foreground.all():
        return np.zeros(foreground.shape, dtype=np.float32)
    found: np.ndarray = edt.edt(np.ascontiguousarray(foreground), anisotropy=tuple(spacing_mm), parallel=1)
    return found


def _box_around(foreground: Bool[np.ndarray, "*spatial"]) -> tuple[slice, ...] | None:
    """The part of the array that holds the foreground and a voxel around it, as far as the image goes."""
    found = find_objects(foreground.astype(np.uint8))
    if not found:
        return None
    return tuple(slice(max(axis.start - 1, 0), axis.stop + 1) for axis in found[0])
