"""Grow the borders of large components."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._classes import box_around, claim_background
from medexp.post_processing._components import find_components, voxels_of
from medexp.post_processing._knobs import check_connectivity, check_names, check_volume
from medexp.post_processing._masks import with_layers
from medexp.post_processing._neighbourhood import Neighbourhood, Reach


class Grow:
    """Grow the connected components that have at least a given volume; smaller ones stay as they are.

    A component grows into the background alone, never into another class; where two classes would grow into the same
    voxel, the nearer one gets it, of two equally near the first.

    Args:
        min_volume_mm3: Smallest volume of a component that grows, in mm3; in 2D the smallest area in mm2, and the
            smallest number of pixels where `Geometry.unit` is "px".
        radius_mm: Voxels count as around whose centre lies within this distance, in mm; in pixels where `Geometry.unit`
            is "px". A radius below every voxel spacing changes nothing. None where a window is given.
        window: Side of a window in voxels, odd, or one for each axis; None where a radius is given.
        connectivity: "faces", neighbours share a face (4 in 2D, 6 in 3D), or "corners", they may share a corner only (8
            in 2D, 26 in 3D).
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: Not exactly one of radius and window is given, or a knob has a value that is not listed.
    """

    takes = Kind.MASK
    gives = Kind.MASK

    def __init__(
        self,
        *,
        min_volume_mm3: float,
        radius_mm: float | None = None,
        window: int | Sequence[int] | None = None,
        connectivity: str = "corners",
        classes: Sequence[str] | None = None,
    ) -> None:
        self.min_volume_mm3 = check_volume(min_volume_mm3, "grow.min_volume_mm3")
        self.reach = Reach.of(radius_mm, window, "grow")
        self.connectivity = check_connectivity(connectivity, "grow")
        self.classes = check_names(classes, "grow")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Grow the components.

        Args:
            prediction: What an earlier step gave, with a mask.

        Returns:
            The prediction with another mask of the same shape and type.

        Raises:
            UsageError: There is no mask, `classes` names one that the prediction does not have, or the window does not
                fit its axes.
        """
        around = self.reach.on(prediction, "grow")
        min_voxels = voxels_of(self.min_volume_mm3, prediction.geometry)
        return with_layers(
            prediction,
            self.classes,
            "grow",
            lambda layer, values: grown_components(layer, values, around, min_voxels, self.connectivity),
        )


def grown_components(
    layer: Integer[np.ndarray, "*spatial"],
    values: Sequence[int],
    around: Neighbourhood,
    min_voxels: int,
    connectivity: str,
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer in which the large components of some classes have grown into the background."""
    components = find_components(layer, connectivity)
    large = components.voxels >= min_voxels
    wanted = {}
    for value in values:
        own = (large & (components.values == value))[components.numbers]
        if own.any():
            box = box_around(own, around.half)
            wanted[value] = (box, around.dilated(own[box]))
    return claim_background(layer, wanted, around.spacing_mm)
