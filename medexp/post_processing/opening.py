"""Remove what is thinner than a distance or a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

from medexp.post_processing._around import AroundStep
from medexp.post_processing._classes import box_around
from medexp.post_processing._neighbourhood import Neighbourhood


class Opening(AroundStep):
    """Shrink each class and let it grow back: parts that are thinner than the neighbourhood become background.

    No class gains a voxel. What lies outside the image does not count. Probabilities are opened channel by channel
    (min-pooling, then max-pooling), and the background of exclusive classes gets what is left.

    Works on the mask where there is one, else on the probabilities.

    The knobs are those of `AroundStep`.
    """

    name = "opening"

    def changed_channel(
        self, soft: Float[np.ndarray, "*spatial"], around: Neighbourhood
    ) -> Float[np.ndarray, "*spatial"]:
        """Other probabilities of a class, from those of the class alone."""
        return around.highest(around.lowest(soft))

    def changed_layer(
        self, layer: Integer[np.ndarray, "*spatial"], values: Sequence[int], around: Neighbourhood
    ) -> Integer[np.ndarray, "*spatial"]:
        """A copy of a layer without the thin parts of some classes."""
        new = layer.copy()
        for value in values:
            own = layer == value
            if own.any():
                box = box_around(own, [1] * own.ndim)
                new[box][own[box] & ~around.dilated(around.eroded(own[box]))] = 0
        return new
