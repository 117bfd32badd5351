"""Grow classes, or their probabilities, by a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from medexp.post_processing._around import AroundStep
from medexp.post_processing._classes import box_around, claim_background
from medexp.post_processing._neighbourhood import Neighbourhood


class Dilate(AroundStep):
    """Give each voxel the highest value around it: max-pooling without a stride.

    In a mask each class grows into the background alone, never into another class; where two classes would grow into
    the same voxel, the nearer one gets it, of two equally near the first. Probabilities grow channel by channel;
    exclusive classes that together exceed one are divided by their sum, and the background gets what is left.

    Works on the mask where there is one, else on the probabilities.

    The knobs are those of `AroundStep`.
    """

    name = "dilate"

    def changed_channel(
        self, soft: Float[np.ndarray, "*spatial"], around: Neighbourhood
    ) -> Float[np.ndarray, "*spatial"]:
        """Other probabilities of a class, from those of the class alone."""
        return around.highest(soft)

    def changed_layer(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
    ) -> Integer[np.ndarray, "*spatial"]:
        """A copy of a layer in which some classes have grown into the background."""
        wanted = {}
        for value in values:
            own = layer == value
            if own.any():
                box = box_around(own, around.half)
                wanted[value] = (box, around.dilated(own[box]))
        return claim_background(layer, wanted, around.spacing_mm)
