"""Panoptic quality, and the qualities of recognition and of segmentation that it is made of."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction
from medexp.metrics._matching import compared
from medexp.metrics._per_case import MEAN, defined_mean, empty_rule, rule_in_words

# Of the sum of the matches' IoU and the numbers of matches, misses and false alarms, at least one of which is above 0.
_QUALITIES: Mapping[str, Callable[[float, int, int, int], float]] = {
    "pq": lambda iou, matches, misses, alarms: iou / (matches + misses / 2 + alarms / 2),
    "sq": lambda iou, matches, misses, alarms: iou / matches if matches else math.nan,
    "rq": lambda iou, matches, misses, alarms: matches / (matches + misses / 2 + alarms / 2),
}


class PanopticQuality:
    """How well instances are found and outlined: the IoU of the matches over matches and half of misses and alarms.

    Source: A. Kirillov et al., Panoptic segmentation, CVPR 2019: PQ in eq. 1, its factors SQ (mean IoU of the matches)
    and RQ (an F1 score) in eq. 2. A predicted and a referred instance of one class match where their IoU is above
    `min_iou`; as instances do not overlap, above .5 each has at most one match.

    Where `reference.valid` is given, voxels that nobody annotated count in no IoU, and a predicted instance without a
    match that lies in them with more than half of its voxels is no false alarm (section 4.1 there, "void"). Instances
    of the reference are counted by their annotated voxels.

    The evidence is a row for each match (its value is the IoU), miss and false alarm, and a row `Outcome.NONE` for each
    class that neither prediction nor reference has in the image.

    Args:
        quality: "pq", "sq" or "rq"; the name of the metric.
        pooled: One value over the objects of all cases, as published, else the mean over cases.
        min_iou: IoU above which two instances match, from 0.5 to below 1.
        both_empty: Value of a class that neither prediction nor reference has: 1.0, or nan for undefined. It counts in
            the mean over cases, and in a pooled value only where no case has an object of the class.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.INSTANCES
    per_case = True
    higher_is_better = True

    def __init__(
        self,
        *,
        quality: str = "pq",
        pooled: bool = True,
        min_iou: float = 0.5,
        both_empty: float | str = math.nan,
    ) -> None:
        if quality not in _QUALITIES:
            raise UsageError(f"pq.quality needs {' or '.join(_QUALITIES)}, got {quality!r}")
        if not 0.5 <= min_iou < 1:
            raise UsageError(f"{quality}.min_iou needs a value from 0.5 (matches are unique) to below 1, got {min_iou}")
        self.name = quality
        self.pooled = pooled
        self.min_iou = float(min_iou)
        self.both_empty = empty_rule(f"{quality}.both_empty", both_empty, (1.0,))

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """A row for each match, miss and false alarm of each class.

        Args:
            prediction: What is measured, with instances and objects.
            reference: The reference of the same case, with instances and objects on the same grid.

        Returns:
            The rows, class by class.

        Raises:
            DataError: Prediction and reference are not of the same case, grid and classes, or lack instances.
        """
        pair = compared(prediction, reference)
        outcomes = pair.outcomes(pair.same_class & (pair.overlaps.iou > self.min_iou))
        found = []
        for structure in prediction.classes:
            own = [(outcome, iou) for value, outcome, iou in outcomes if value == structure.value]
            found += [
                EvidenceRow(reference.case_id, reference.group, self.name, structure.name, iou, outcome=outcome)
                for outcome, iou in own or [(Outcome.NONE, math.nan)]
            ]
        return found

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """The quality of each class, over the objects of all rows or as the mean over cases.

        Args:
            rows: Rows of this metric.

        Returns:
            The quality by class, and under "mean" the mean over the classes where it is defined.

        Raises:
            UsageError: A class is called "mean".
        """
        by_label: dict[str, dict[str, list[EvidenceRow]]] = {}
        for row in rows:
            case = "" if self.pooled else row.case_id
            by_label.setdefault(row.label, {}).setdefault(case, []).append(row)
        if MEAN in by_label:
            raise UsageError(f'a class is called "{MEAN}", the key of the mean over classes; rename it in the dataset')
        values = {label: defined_mean(map(self._quality, parts.values())) for label, parts in by_label.items()}
        return {**values, MEAN: defined_mean(values.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable; undefined is written as a word, since nan is not equal to itself."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled over objects" if self.pooled else "per case",
            "better": "higher",
            "unit": "fraction",
            "unit_px": "fraction",
            "empty": {"both": rule_in_words(self.both_empty), "one": "undefined" if self.name == "sq" else "0.0"},
            "parameters": {"quality": self.name, "min_iou": self.min_iou},
        }

    def _quality(self, rows: Sequence[EvidenceRow]) -> float:
        count = Counter(row.outcome for row in rows)
        matches, misses, alarms = count[Outcome.MATCH], count[Outcome.MISS], count[Outcome.FALSE_ALARM]
        if not matches + misses + alarms:
            return float(self.both_empty)
        iou = math.fsum(row.value for row in rows if row.outcome == Outcome.MATCH)
        return _QUALITIES[self.name](iou, matches, misses, alarms)
