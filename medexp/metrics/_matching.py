"""Which predicted and which referred instances lie on each other, and how much."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer

from medexp.core.errors import DataError
from medexp.core.objects import Objects
from medexp.core.types import Outcome, Prediction


@dataclass(frozen=True, eq=False)
class Overlaps:
    """All pairs of instances that share a voxel.

    Attributes:
        predicted: Id of the predicted instance of each pair.
        referred: Id of the reference's instance of each pair.
        iou: Voxels that both share over the voxels that either has.
    """

    predicted: Integer[np.ndarray, "pairs"]
    referred: Integer[np.ndarray, "pairs"]
    iou: Float[np.ndarray, "pairs"]


def overlaps(prediction: Integer[np.ndarray, "*spatial"], reference: Integer[np.ndarray, "*spatial"]) -> Overlaps:
    """The pairs of instances that share a voxel, from a sparse table of all pairs of ids that occur.

    The table is as long as there are such pairs, however many instances there are.

    Args:
        prediction: Instance ids, 0 where there is none.
        reference: Instance ids on the same grid.

    Returns:
        The pairs, ordered by predicted id and then by referred id.
    """
    first, second = (ids.ravel().astype(np.int64) for ids in (prediction, reference))
    width = int(second.max(initial=0)) + 1
    keys, shared = np.unique(first * width + second, return_counts=True)
    predicted, referred = keys // width, keys % width
    either = np.bincount(predicted, shared)[predicted] + np.bincount(referred, shared)[referred] - shared
    both = (predicted > 0) & (referred > 0)
    return Overlaps(predicted[both], referred[both], shared[both] / either[both])


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


def check_pair(prediction: Prediction, reference: Prediction) -> None:
    """Check that two predictions speak of the same case, classes and grid.

    Args:
        prediction: What is measured, with instances.
        reference: What it is measured by, with instances.

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
    shapes = [
        instances_of(each, whose)[0].shape for each, whose in ((prediction, "prediction"), (reference, "reference"))
    ]
    if shapes[0] != shapes[1]:
        raise DataError(f"{where}: the instances need one grid, got {shapes[0]} and {shapes[1]}; undo the resampling")


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
        hit, said = self.overlaps.referred[is_match] - 1, self.overlaps.predicted[is_match] - 1
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
        reference: With instances on the same grid.

    Returns:
        The comparison.

    Raises:
        DataError: One has no instances, or ids and rows do not fit.
    """
    predicted, objects = instances_of(prediction, "prediction")
    referred, wanted = instances_of(reference, "reference")
    valid = np.ones(referred.shape, dtype=bool) if reference.valid is None else reference.valid
    pairs = overlaps(np.where(valid, predicted, 0), np.where(valid, referred, 0))
    annotated = _voxels(predicted[valid], len(objects))
    return Compared(
        overlaps=pairs,
        same_class=objects.labels[pairs.predicted - 1] == wanted.labels[pairs.referred - 1],
        found=objects.labels,
        wanted=wanted.labels,
        can_be_missed=_voxels(referred[valid], len(wanted)) > 0,
        can_be_alarm=2 * annotated >= np.maximum(_voxels(predicted, len(objects)), 1),
    )


def _voxels(instances: Integer[np.ndarray, "*spatial"], count: int) -> Integer[np.ndarray, "instances"]:
    """Number of voxels of each instance."""
    return np.bincount(instances.ravel(), minlength=count + 1)[1:]
