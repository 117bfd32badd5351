"""Remove what is thinner than a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._classes import box_around
from medexp.post_processing._knobs import check_names
from medexp.post_processing._masks import with_channels, with_layers
from medexp.post_processing._neighbourhood import Neighbourhood, Reach


class Opening:
    """Shrink each class and let it grow back: parts that are thinner than the neighbourhood become background.

    No class gains a voxel. What lies outside the image does not count. Probabilities are opened channel by channel
    (min-pooling, then max-pooling), and the background of exclusive classes gets what is left.

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
        self.reach = Reach.of(radius_mm, window, "opening")
        self.classes = check_names(classes, "opening")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Open the classes.

        Args:
            prediction: With a mask or probabilities.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: `classes` names one that the prediction does not have, or the window does not fit its axes.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        around = self.reach.on(prediction, "opening")
        if prediction.mask is None:
            return with_channels(
                prediction, self.classes, "opening", lambda channel: around.highest(around.lowest(channel))
            )
        return with_layers(
            prediction, self.classes, "opening", lambda layer, values: opened_classes(layer, values, around)
        )


def opened_classes(
    layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer without the thin parts of some classes."""
    new = layer.copy()
    for value in values:
        own = layer == value
        if own.any():
            box = box_around(own, [1] * own.ndim)
            new[box][own[box] & ~around.dilated(around.eroded(own[box]))] = 0
    return new
