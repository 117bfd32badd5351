"""Shrink classes, or their probabilities, by a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._classes import box_around
from medexp.post_processing._knobs import check_names
from medexp.post_processing._masks import with_channels, with_layers
from medexp.post_processing._neighbourhood import Neighbourhood, Reach


class Erode:
    """Give each voxel the lowest value around it: min-pooling without a stride.

    In a mask a voxel keeps its class where all voxels around it have the same class, and becomes background elsewhere.
    What lies outside the image does not count, so that a class is not eaten up from the image's border. Probabilities
    shrink channel by channel, and the background of exclusive classes gets what is left.

    Works on the mask where there is one, else on the probabilities.

    Args:
        radius_mm: Voxels count as around whose centre lies within this distance, in mm; in pixels where `Geometry.unit`
            is "px". A radius below every voxel spacing changes nothing. None where a window is given.
        window: Side of a window in voxels, odd, or one for each axis; None where a radius is given.
        classes: Names of the classes to work on; None for all. The others stay as they are.

    Raises:
        UsageError: Not exactly one of radius and window is given, or a knob has a value that is not listed.
    """

    takes = (Kind.PROBABILITIES, Kind.BORDERS, Kind.MASK)
    gives = None

    def __init__(
        self,
        *,
        radius_mm: float | None = None,
        window: int | Sequence[int] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        self.reach = Reach.of(radius_mm, window, "erode")
        self.classes = check_names(classes, "erode")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Shrink the classes.

        Args:
            prediction: With a mask or probabilities.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: `classes` names one that the prediction does not have, or the window does not fit its axes.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        around = self.reach.on(prediction, "erode")
        if prediction.mask is None:
            return with_channels(prediction, self.classes, "erode", around.lowest)
        return with_layers(
            prediction, self.classes, "erode", lambda layer, values: eroded_classes(layer, values, around)
        )


def eroded_classes(
    layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer in which some classes have shrunk to background."""
    new = layer.copy()
    for value in values:
        own = layer == value
        if own.any():
            box = box_around(own, [1] * own.ndim)
            new[box][own[box] & ~around.eroded(own[box])] = 0
    return new
