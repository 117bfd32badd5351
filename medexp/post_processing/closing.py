"""Fill gaps that are thinner than a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Integer

from medexp.core.types import Kind, Prediction
from medexp.post_processing._classes import box_around, claim_background
from medexp.post_processing._knobs import check_names
from medexp.post_processing._masks import with_channels, with_layers
from medexp.post_processing._neighbourhood import Neighbourhood, Reach


class Closing:
    """Let each class grow and shrink back: gaps that are thinner than the neighbourhood are filled.

    No class loses a voxel. In a mask only background is filled; a voxel that two classes would fill goes to the nearer
    one, of two equally near to the first. What lies outside the image does not count. Probabilities are closed channel
    by channel (max-pooling, then min-pooling); exclusive classes that together exceed one are divided by their sum.

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
        self.reach = Reach.of(radius_mm, window, "closing")
        self.classes = check_names(classes, "closing")

    def __call__(self, prediction: Prediction) -> Prediction:
        """Close the classes.

        Args:
            prediction: With a mask or probabilities.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: `classes` names one that the prediction does not have, or the window does not fit its axes.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        around = self.reach.on(prediction, "closing")
        if prediction.mask is None:
            return with_channels(
                prediction, self.classes, "closing", lambda channel: around.lowest(around.highest(channel))
            )
        return with_layers(
            prediction, self.classes, "closing", lambda layer, values: closed_classes(layer, values, around)
        )


def closed_classes(
    layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
) -> Integer[np.ndarray, "*spatial"]:
    """A copy of a layer in which some classes have filled their thin gaps."""
    wanted = {}
    for value in values:
        own = layer == value
        if own.any():
            # One voxel more than the class can grow, so that it is seen to end.
            box = box_around(own, [half + 1 for half in around.half])
            wanted[value] = (box, around.eroded(around.dilated(own[box])))
    return claim_background(layer, wanted, around.spacing_mm)
