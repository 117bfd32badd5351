"""What is usual around each voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from medexp.post_processing._around import AroundStep
from medexp.post_processing._classes import box_around
from medexp.post_processing._neighbourhood import Neighbourhood


class Median(AroundStep):
    """Give each voxel the median of what lies around it.

    In a mask a voxel belongs to a class where more than half of the voxels around it do, the median of the class's
    mask; at most one class can have so many. A voxel where none has becomes background. Voxels of classes that are not
    named stay. Outside the image everything is like the nearest voxel inside. Probabilities are filtered channel by
    channel; exclusive classes that together exceed one are divided by their sum, and the background gets what is left.

    Works on the mask where there is one, else on the probabilities.

    The knobs are those of `AroundStep`.
    """

    name = "median"

    def changed_channel(
        self, soft: Float[np.ndarray, "*spatial"], around: Neighbourhood
    ) -> Float[np.ndarray, "*spatial"]:
        """Other probabilities of a class, from those of the class alone."""
        return around.median(soft)

    def changed_layer(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
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
