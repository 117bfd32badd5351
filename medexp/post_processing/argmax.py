"""Probabilities of exclusive classes to a mask."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.errors import UsageError
from medexp.core.types import Kind, Prediction
from medexp.post_processing._masks import empty_mask, probabilities_of


class Argmax:
    """Give each voxel the class of the highest probability; a tie goes to the channel that comes first.

    Channel 0 is the background, channel i + 1 the class i of the prediction.
    """

    takes = Kind.PROBABILITIES
    gives = Kind.MASK

    def __call__(self, prediction: Prediction) -> Prediction:
        """Make the mask.

        Args:
            prediction: Exclusive classes with probabilities of background and classes.

        Returns:
            The prediction with a mask of one layer.

        Raises:
            UsageError: The classes overlap, or there are no probabilities.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        if not prediction.exclusive:
            raise UsageError(
                f"argmax in case {prediction.case_id} needs exclusive classes, and the task's regions overlap; "
                "use threshold instead"
            )
        soft = probabilities_of(prediction, 1 + len(prediction.classes), "argmax")
        mask = empty_mask(prediction.classes, soft.shape[1:])
        values = [structure.value for structure in prediction.classes]
        return prediction.with_mask(_fill_most_probable(mask, soft, values))


def _fill_most_probable(
    mask: Integer[np.ndarray, "1 *spatial"], soft: Float[np.ndarray, "channels *spatial"], values: list[int]
) -> Integer[np.ndarray, "1 *spatial"]:
    """Write the value of the most probable class into an empty mask.

    Channel by channel, since numpy's argmax over the first axis takes four times as long.
    """
    highest = soft[0].copy()
    for channel, value in zip(soft[1:], values, strict=True):
        mask[0][channel > highest] = value
        np.maximum(highest, channel, out=highest)
    return mask
