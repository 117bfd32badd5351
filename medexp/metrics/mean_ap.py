"""Average precision of boxes as COCO defines it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.objects import Objects
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction, StructureClass
from medexp.metrics._boxes import box_iou, objects_of
from medexp.metrics._per_case import MEAN, defined_mean

_RECALLS = np.linspace(0.0, 1.0, 101)


class MeanAP:
    """Precision averaged over 101 levels of recall and over several thresholds of IoU, for each class.

    Source: T.-Y. Lin et al., Microsoft COCO: Common objects in context, ECCV 2014, and its evaluation code, without
    crowds and ranges of area. In each image the surest objects of a class come first; each takes the referred object of
    its class that it overlaps most and that none before it has taken, if their IoU reaches the threshold. Over all
    images precision is made to fall with recall and is read at recall 0, .01, ... 1. A class that no image has is
    undefined.

    No image has a value of its own. The evidence is, for each threshold, a row for each match (value: IoU), false alarm
    and miss, and a row `Outcome.NONE` for each class that neither prediction nor reference has in the image. Of equal
    scores the earlier row counts first, as in COCO.

    Args:
        name: Name of the metric in rows and tables; two variants in one experiment need two names.
        iou_thresholds: IoU from which on two boxes match, above 0 and up to 1.
        max_detections: The surest objects of a class that count in an image, at most.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    higher_is_better = True
    takes = Kind.OBJECTS
    per_case = False

    def __init__(self, *, name: str, iou_thresholds: Sequence[float], max_detections: int) -> None:
        if not iou_thresholds or not all(0 < threshold <= 1 for threshold in iou_thresholds):
            raise UsageError(f"{name}.iou_thresholds needs values above 0 and up to 1, got {list(iou_thresholds)}")
        if max_detections < 1:
            raise UsageError(f"{name}.max_detections needs a value >= 1, got {max_detections}")
        self.name = name
        self.iou_thresholds = tuple(float(threshold) for threshold in iou_thresholds)
        self.max_detections = max_detections

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """A row for each match, false alarm and miss, of each class and at each threshold.

        Args:
            prediction: With objects and scores.
            reference: With objects.

        Returns:
            The rows, class by class and threshold by threshold, the surest object first.

        Raises:
            DataError: Prediction and reference do not belong together, or lack objects.
        """
        found, wanted = objects_of(prediction, reference)
        rows = []
        for structure in prediction.classes:
            ious, scores = self._ranked(found, wanted, structure)
            rows += [
                EvidenceRow(
                    case_id=reference.case_id,
                    group=reference.group,
                    metric=self.name,
                    label=structure.name,
                    value=iou,
                    score=score,
                    outcome=outcome,
                    threshold=threshold,
                )
                for threshold in self.iou_thresholds
                for outcome, iou, score in _outcomes(ious, scores, threshold)
            ]
        return rows

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Average precision by class, the mean over the thresholds, and the mean of the classes that occur."""
        by_label: dict[str, dict[float, list[EvidenceRow]]] = {}
        for row in rows:
            by_label.setdefault(row.label, {}).setdefault(row.threshold, []).append(row)
        values = {label: defined_mean(map(_average_precision, own.values())) for label, own in by_label.items()}
        return {**values, MEAN: defined_mean(values.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled over objects, 101 levels of recall, mean over thresholds, mean over classes",
            "better": "higher",
            "unit": "fraction",
            "empty": {"no object in the reference": "undefined"},
            "parameters": {"iou_thresholds": list(self.iou_thresholds), "max_detections": self.max_detections},
        }

    def _ranked(
        self, found: Objects, wanted: Objects, structure: StructureClass
    ) -> tuple[Float[np.ndarray, "found wanted"], Float[np.ndarray, "found"]]:
        """IoU of the objects of a class with those of the reference, and scores, the surest first."""
        of_class, referred = (each.select(each.labels == structure.value) for each in (found, wanted))
        surest = np.argsort(-of_class.scores, kind="stable")[: self.max_detections]
        of_class = of_class.select(surest)
        return box_iou(of_class.boxes, referred.boxes), of_class.scores


def _outcomes(
    ious: Float[np.ndarray, "found wanted"], scores: Float[np.ndarray, "found"], threshold: float
) -> Iterator[tuple[Outcome, float, float]]:
    """Outcome, IoU and score: predicted objects in their order, misses, or that there is nothing."""
    taken = np.zeros(ious.shape[1], dtype=bool)
    for own, score in zip(ious, scores.tolist(), strict=True):
        match = _best_free(own, taken, threshold)
        if match is None:
            yield Outcome.FALSE_ALARM, math.nan, score
        else:
            taken[match] = True
            yield Outcome.MATCH, float(own[match]), score
    for _ in range(np.count_nonzero(~taken)):
        yield Outcome.MISS, math.nan, math.nan
    if not ious.shape[0] and not ious.shape[1]:
        yield Outcome.NONE, math.nan, math.nan


def _best_free(ious: Float[np.ndarray, "wanted"], taken: Bool[np.ndarray, "wanted"], threshold: float) -> int | None:
    """The referred object of the highest IoU that is free; of equal ones the last, as in COCO's code."""
    free = np.where(taken, -1.0, ious)
    if not len(free) or free.max() < min(threshold, 1 - 1e-10):
        return None
    return int(np.flatnonzero(free == free.max())[-1])


def _average_precision(rows: Sequence[EvidenceRow]) -> float:
    """Mean over 101 levels of recall of the best precision at that recall or a higher one."""
    wanted = sum(row.outcome in (Outcome.MATCH, Outcome.MISS) for row in rows)
    if not wanted:
        return math.nan
    found = [row for row in rows if row.outcome in (Outcome.MATCH, Outcome.FALSE_ALARM)]
    order = np.argsort([-row.score for row in found], kind="stable")
    hits = np.cumsum(np.array([row.outcome == Outcome.MATCH for row in found], dtype=bool)[order])
    precision = hits / np.arange(1, len(found) + 1)
    falling = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return float(falling[np.searchsorted(hits / wanted, _RECALLS, side="left")].mean())
