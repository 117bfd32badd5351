"""Shrink classes, or their probabilities, by a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from medexp.post_processing._around import AroundStep
from medexp.post_processing._classes import box_around
from medexp.post_processing._neighbourhood import Neighbourhood


class Erode(AroundStep):
    """Give each voxel the lowest value around it: min-pooling without a stride.

    In a mask a voxel keeps its class where all voxels around it have the same class, and becomes background elsewhere.
    What lies outside the image does not count, so that a class is not eaten up from the image's border. Probabilities
    shrink channel by channel, and the background of exclusive classes gets what is left.

    Works on the mask where there is one, else on the probabilities.

    The knobs are those of `AroundStep`.
    """

    name = "erode"

    def changed_channel(
        self, soft: Float[np.ndarray, "*spatial"], around: Neighbourhood
    ) -> Float[np.ndarray, "*spatial"]:
        """Other probabilities of a class, from those of the class alone."""
        return around.lowest(soft)

    def changed_layer(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
    ) -> Integer[np.ndarray, "*spatial"]:
        """A copy of a layer in which some classes have shrunk to background."""
        new = layer.copy()
        for value in values:
            own = layer == value
            if own.any():
                box = box_around(own, [1] * own.ndim)
                new[box][own[box] & ~around.eroded(own[box])] = 0
        return new
