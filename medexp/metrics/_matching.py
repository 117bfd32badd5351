"""Which predicted and which referred instances lie on each other, and how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from medexp.core.errors import DataError
from medexp.core.objects import Objects
from medexp.core.overlaps import Overlaps, overlaps
from medexp.core.types import Outcome, Prediction


def instances_of(prediction: Prediction, whose: str) -> tuple[Integer[np.ndarray, "*spatial"], Objects]:
    """The instances of a prediction or a reference with their objects, checked.

    Args:
        prediction: The prediction or the reference.
        whose: Which of them it is, for the error.

    Returns:
        The instances, and the objects whose row k - 1 is instance k.

    Raises:
        DataError: There are none, or ids and rows do not fit.
    """
    where, instances, objects = f"case {prediction.case_id}", prediction.instances, prediction.objects
    if instances is None or objects is None:
        raise DataError(
            f"{where}: the {whose} has no instances; end the post-processing chain with a step that makes them"
        )
    if instances.min(initial=0) < 0 or instances.max(initial=0) > len(objects):
        raise DataError(f"{where}: the {whose} needs instance ids from 0 to {len(objects)}, one for each object")
    return instances, objects


def check_case(prediction: Prediction, reference: Prediction) -> None:
    """Check that two predictions speak of the same case and classes.

    Args:
        prediction: What is measured.
        reference: What it is measured by.

    Raises:
        DataError: They do not.
    """
    where = f"case {reference.case_id}"
    if prediction.case_id != reference.case_id:
        raise DataError(f"{where} was given the prediction of case {prediction.case_id}; pair them by case_id")
    if prediction.classes != reference.classes:
        names = [[structure.name for structure in each.classes] for each in (prediction, reference)]
        raise DataError(
            f"{where}: prediction and reference need the same classes, got {names[0]} and {names[1]}; decode both by "
            "one task"
        )


@dataclass(frozen=True, eq=False)
class Compared:
    """The instances of a prediction and of its reference, compared once for any number of thresholds.

    Attributes:
        overlaps: Pairs that share an annotated voxel.
        same_class: Which pairs are of one class.
        found: Class values of the predicted instances.
        wanted: Class values of the reference's.
        can_be_missed: Instances of the reference that have an annotated voxel.
        can_be_alarm: Predicted instances that do not lie in unannotated voxels with more than half of theirs.
    """

    overlaps: Overlaps
    same_class: Bool[np.ndarray, "pairs"]
    found: Integer[np.ndarray, "predictions"]
    wanted: Integer[np.ndarray, "references"]
    can_be_missed: Bool[np.ndarray, "references"]
    can_be_alarm: Bool[np.ndarray, "predictions"]

    def outcomes(self, is_match: Bool[np.ndarray, "pairs"]) -> list[tuple[int, Outcome, float]]:
        """Class value, outcome and IoU (nan where there is no match): matches, then misses, then false alarms.

        Args:
            is_match: Which pairs match; no instance is in two of them.

        Returns:
            The outcomes.
        """
        hit, said = self.overlaps.second[is_match] - 1, self.overlaps.first[is_match] - 1
        is_missed, is_alarm = self.can_be_missed.copy(), self.can_be_alarm.copy()
        is_missed[hit], is_alarm[said] = False, False
        ious = self.overlaps.iou[is_match].tolist()
        return [
            *((value, Outcome.MATCH, iou) for value, iou in zip(self.wanted[hit].tolist(), ious, strict=True)),
            *((value, Outcome.MISS, math.nan) for value in self.wanted[is_missed].tolist()),
            *((value, Outcome.FALSE_ALARM, math.nan) for value in self.found[is_alarm].tolist()),
        ]


def compared(prediction: Prediction, reference: Prediction) -> Compared:
    """Compare instances, by their annotated voxels alone.

    Args:
        prediction: With instances.
        reference: With instances.

    Returns:
        The comparison.

    Raises:
        DataError: They are not of one case, grid and classes, one has no instances, or ids and rows do not fit.
    """
    check_case(prediction, reference)
    predicted, objects = instances_of(prediction, "prediction")
    referred, wanted = instances_of(reference, "reference")
    if predicted.shape != referred.shape:
        raise DataError(
            f"case {reference.case_id}: the instances need one grid, got {predicted.shape} and {referred.shape}; undo "
            "the resampling"
        )
    whole, valid = predicted, reference.valid
    if valid is not None:
        predicted, referred = np.where(valid, predicted, 0), np.where(valid, referred, 0)
    pairs = overlaps(predicted, referred, n_first=len(objects), n_second=len(wanted))
    annotated = pairs.first_voxels[1:]
    sizes = annotated if valid is None else np.bincount(whole.ravel(), minlength=len(objects) + 1)[1:]
    return Compared(
        overlaps=pairs,
        same_class=objects.labels[pairs.first - 1] == wanted.labels[pairs.second - 1],
        found=objects.labels,
        wanted=wanted.labels,
        can_be_missed=pairs.second_voxels[1:] > 0,
        can_be_alarm=2 * annotated >= np.maximum(sizes, 1),
    )
