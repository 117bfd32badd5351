"""Fill gaps that are thinner than a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from medexp.post_processing._around import AroundStep
from medexp.post_processing._classes import box_around, claim_background
from medexp.post_processing._neighbourhood import Neighbourhood


class Closing(AroundStep):
    """Let each class grow and shrink back: gaps that are thinner than the neighbourhood are filled.

    No class loses a voxel. In a mask only background is filled; a voxel that two classes would fill goes to the nearer
    one, of two equally near to the first. What lies outside the image does not count. Probabilities are closed channel
    by channel (max-pooling, then min-pooling); exclusive classes that together exceed one are divided by their sum.

    Works on the mask where there is one, else on the probabilities.

    The knobs are those of `AroundStep`.
    """

    name = "closing"

    def changed_channel(
        self, soft: Float[np.ndarray, "*spatial"], around: Neighbourhood
    ) -> Float[np.ndarray, "*spatial"]:
        """Other probabilities of a class, from those of the class alone."""
        return around.lowest(around.highest(soft))

    def changed_layer(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
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
