"""Several classes become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from medexp.core.errors import UsageError
from medexp.core.types import SOFT, Kind, Prediction
from medexp.post_processing._knobs import check_names
from medexp.post_processing._masks import chosen_classes, mask_of, probabilities_of


class MergeClasses:
    """Let one class take the voxels of others, which are empty afterwards.

    In a mask the class takes their voxels; of overlapping regions it becomes the union. Probabilities of exclusive
    classes are summed up, so that two halves of a doubt count together; of overlapping regions the highest counts.

    Works on the mask where there is one, else on the probabilities.

    Args:
        classes: Names of the classes that are taken; None for all others.
        into: Name of the class that takes them; None for the first of the task.

    Raises:
        UsageError: A knob is no name or list of names, or the class would take itself.
    """

    takes = (*SOFT, Kind.MASK)
    gives = None

    def __init__(self, *, classes: Sequence[str] | None = None, into: str | None = None) -> None:
        self.classes = check_names(classes, "merge_classes")
        if not (into is None or isinstance(into, str)):
            raise UsageError(f"merge_classes.into needs a name, or null for the first class, got {into!r}")
        if into is not None and into in (self.classes or ()):
            raise UsageError(f"merge_classes.into={into} is one of merge_classes.classes; leave it out there")
        self.into = into

    def __call__(self, prediction: Prediction) -> Prediction:
        """Merge the classes.

        Args:
            prediction: With a mask or probabilities.

        Returns:
            The prediction with another mask, or other probabilities, of the same shape and type.

        Raises:
            UsageError: A name is not among the prediction's classes, or the class would take itself.
            DataError: The probabilities do not fit the classes, or hold nan.
        """
        into, taken = self._places(prediction)
        if prediction.mask is None:
            return _merged_channels(prediction, into, taken)
        return _merged_layers(prediction, into, taken)

    def _places(self, prediction: Prediction) -> tuple[int, list[int]]:
        into = chosen_classes(prediction, None if self.into is None else [self.into], "merge_classes")[0]
        taken = chosen_classes(prediction, self.classes, "merge_classes")
        if self.classes is None:
            taken.remove(into)
        elif into in taken:
            raise UsageError(
                f"merge_classes would merge {prediction.classes[into].name}, the first class, into itself; name "
                "another one with merge_classes.into"
            )
        return into, taken


def _merged_layers(prediction: Prediction, into: int, taken: Sequence[int]) -> Prediction:
    mask = mask_of(prediction, "merge_classes").copy()
    target = prediction.classes[into]
    for place in taken:
        structure = prediction.classes[place]
        own = mask[structure.layer] == structure.value
        mask[structure.layer][own] = 0
        mask[target.layer][own] = target.value
    return prediction.with_mask(mask)


def _merged_channels(prediction: Prediction, into: int, taken: Sequence[int]) -> Prediction:
    first = 1 if prediction.exclusive else 0
    soft = probabilities_of(prediction, first + len(prediction.classes), "merge_classes").copy()
    for place in taken:
        own, target = soft[first + place], soft[first + into]
        target[...] = np.minimum(target + own, 1) if prediction.exclusive else np.maximum(target, own)
        own[...] = 0
    return replace(prediction, probabilities=soft)
