"""What is usual around each voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._classes import box_around
from medexp.post_processing._knobs import check_names
from medexp.post_processing._masks import with_channels, with_layers
from medexp.post_processing._neighbourhood import Neighbourhood, Reach


class Median:
    """Give each voxel the median of what lies around it.

    In a mask a voxel belongs to a class where more than half of the voxels around it do, the median of the class's
    mask; at most one class can have so many. A voxel where none has becomes background. Voxels of classes that are not
    named stay. Outside the image everything is like the nearest voxel inside. Probabilities are filtered channel by
    channel; exclusive classes that together exceed one are divided by their sum, and the background gets what is left.

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
        self.reach = Reach.of(radius_mm, window, "median")
        self.classes = check_names(classes, "median")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Filter the classes.

        Args:
            prediction: With a mask or probabilities.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: `classes` names one that the prediction does not have, or the window does not fit its axes.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        around = self.reach.on(prediction, "median")
        if prediction.mask is None:
            return with_channels(prediction, self.classes, "median", around.median)
        return with_layers(
            prediction, self.classes, "median", lambda layer, values: usual_classes(layer, values, around)
        )


def usual_classes(
    layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer in which some classes are replaced by the medians of their masks."""
    chosen = np.isin(layer, values)
    new = np.where(chosen, layer.dtype.type(0), layer)
    free = new == 0
    for value in values:
        own = layer == value
        if own.any():
            box = box_around(own, around.half)
            new[box][around.majority(own[box]) & free[box]] = value
    return new
