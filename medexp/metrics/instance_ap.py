"""Average precision of instances as StarDist and the Data Science Bowl define it, not COCO's; and their F1 score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction
from medexp.metrics._matching import Compared, compared
from medexp.metrics._per_case import MEAN, defined_mean

# How often a match counts, above and below the line.
_WEIGHTS = {"ap": 1, "f1": 2}
_FORMULAS = {"ap": "TP / (TP + FN + FP)", "f1": "2 TP / (2 TP + FN + FP)"}


class InstanceAP:
    """TP / (TP + FN + FP) of instances, or their F1 score, at thresholds of IoU, and the mean over them.

    Sources: eq. 1 of U. Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018, whose tables pool the
    counts of all images (`pooled`); J. C. Caicedo et al., Nucleus segmentation across imaging experiments: the 2018
    Data Science Bowl, Nature Methods 16 (2019), for the mean over images and thresholds. It ranks nothing by score and
    is no area under a curve, so that it must not be compared with COCO's mask mAP, which `mean_ap` is for boxes.

    The F1 score, 2 TP / (2 TP + FN + FP), of the same matches is what studies of nuclei call F1 of objects; pooled and
    at one half it is `rq`, but for pairs with an IoU of exactly one half.

    A predicted and a referred instance of one class can match where their IoU is at least the threshold; the largest
    number of matches counts in which each instance has at most one. Voxels that nobody annotated are treated as `pq`
    treats them.

    The evidence is a row for each threshold and match (its value is the IoU), miss and false alarm, and a row
    `Outcome.NONE` for each threshold and class that neither prediction nor reference has in the image.

    Args:
        name: Name of the metric.
        min_ious: Thresholds of IoU, each from 0.5 to below 1.
        pooled: The counts of all cases are one, else the mean over cases.
        formula: "ap" or "f1".

    Raises:
        UsageError: A threshold is out of range or missing, or there is no such formula.
    """

    takes = Kind.INSTANCES
    per_case = True
    higher_is_better = True

    def __init__(self, *, name: str, min_ious: Sequence[float], pooled: bool, formula: str = "ap") -> None:
        if not min_ious or not all(0.5 <= iou < 1 for iou in min_ious) or len(set(min_ious)) < len(min_ious):
            raise UsageError(f"{name}.min_ious needs different values from 0.5 to below 1, got {list(min_ious)}")
        self.name = name
        self.min_ious = tuple(map(float, min_ious))
        if formula not in _WEIGHTS:
            raise UsageError(f"{name}.formula needs {' or '.join(_WEIGHTS)}, got {formula!r}")
        self.pooled = pooled
        self.formula = formula

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """A row for each threshold, and match, miss and false alarm of each class.

        Args:
            prediction: What is measured, with instances and objects.
            reference: The reference of the same case, with instances and objects on the same grid.

        Returns:
            The rows, threshold by threshold and class by class.

        Raises:
            DataError: Prediction and reference are not of the same case, grid and classes, or lack instances.
        """
        pair = compared(prediction, reference)
        found = []
        for min_iou in self.min_ious:
            outcomes = pair.outcomes(_most_matches(pair, min_iou))
            for structure in prediction.classes:
                own = [(outcome, iou) for value, outcome, iou in outcomes if value == structure.value]
                found += [
                    EvidenceRow(
                        reference.case_id, reference.group, self.name, structure.name, iou, outcome=outcome,
                        threshold=min_iou,
                    )
                    for outcome, iou in own or [(Outcome.NONE, math.nan)]
                ]  # fmt: skip
        return found

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """The mean over thresholds of each class, over the objects of all rows or as the mean over cases.

        Args:
            rows: Rows of this metric.

        Returns:
            The value by class, and under "mean" the mean over the classes where it is defined.

        Raises:
            UsageError: A class is called "mean".
        """
        outcomes: dict[str, dict[float, dict[str, list[str]]]] = {}
        for row in rows:
            case = "" if self.pooled else row.case_id
            at = outcomes.setdefault(row.label, {}).setdefault(row.threshold, {})
            at.setdefault(case, []).append(row.outcome)
        if MEAN in outcomes:
            raise UsageError(f'a class is called "{MEAN}", the key of the mean over classes; rename it in the dataset')
        values = {
            label: defined_mean(defined_mean(map(self._value, cases.values())) for cases in by_threshold.values())
            for label, by_threshold in outcomes.items()
        }
        return {**values, MEAN: defined_mean(values.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled over objects" if self.pooled else "per case",
            "better": "higher",
            "unit": "fraction",
            "unit_px": "fraction",
            "empty": {"both": "undefined", "one": "0.0"},
            "parameters": {"min_ious": list(self.min_ious), "formula": _FORMULAS[self.formula]},
        }

    def _value(self, outcomes: Sequence[str]) -> float:
        matches = _WEIGHTS[self.formula] * outcomes.count(Outcome.MATCH)
        either = matches + outcomes.count(Outcome.MISS) + outcomes.count(Outcome.FALSE_ALARM)
        return matches / either if either else math.nan


def _most_matches(pair: Compared, min_iou: float) -> Bool[np.ndarray, "pairs"]:
    """The pairs of a largest matching; above an IoU of .5 every pair that can match does."""
    can_match: np.ndarray = pair.same_class & (pair.overlaps.iou >= min_iou)
    predicted, referred = pair.overlaps.first[can_match], pair.overlaps.second[can_match]
    if len(np.unique(predicted)) == len(predicted) and len(np.unique(referred)) == len(referred):
        return can_match
    shape = len(pair.found) + 1, len(pair.wanted) + 1
    graph = coo_matrix((np.ones(len(predicted)), (predicted, referred)), shape=shape).tocsr()
    partner = maximum_bipartite_matching(graph, perm_type="column")
    chosen = can_match.copy()
    chosen[can_match] = partner[predicted] == referred
    return chosen
