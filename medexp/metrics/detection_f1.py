"""F1 score of objects that are found near enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Integer
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction
from medexp.metrics._boxes import objects_of
from medexp.metrics._per_case import MEAN, defined_mean, empty_rule, rule_in_words


class DetectionF1:
    """Matches over matches and half of misses and false alarms, where a match is an object whose middle is near enough.

    Predicted and referred objects of a class are assigned to each other by the Hungarian method: as many pairs as there
    can be whose middles lie no farther than `distance_mm` apart, and of all such assignments the one with the smallest
    sum of distances. Where objects lie close together, a greedy assignment may give one the match that another needs,
    and it depends on the order of the scores, with which an F1 score has nothing to do.

    Source: the gated assignment of N. Chenouard et al., Objective comparison of particle tracking methods, Nature
    Methods 11 (2014).

    The evidence is a row for each match (its value is the distance), miss and false alarm, and a row `Outcome.NONE` for
    each class that neither prediction nor reference has in the image.

    Args:
        distance_mm: Largest distance of a match between the middles of two objects; pixels where `Geometry.unit` is
            "px".
        min_score: Objects with a lower score do not count.
        both_empty: Value of a class that neither prediction nor reference has in any of the cases: 1.0, or nan for
            undefined.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    name = "detection_f1"
    higher_is_better = True
    takes = Kind.OBJECTS
    per_case = True

    def __init__(self, *, distance_mm: float, min_score: float, both_empty: float | str) -> None:
        if not 0 < distance_mm < math.inf:
            raise UsageError(f"detection_f1.distance_mm needs a finite value above 0, got {distance_mm}")
        if not 0 <= min_score <= 1:
            raise UsageError(f"detection_f1.min_score needs a value from 0 to 1, got {min_score}")
        self.distance_mm = distance_mm
        self.min_score = min_score
        self.both_empty = empty_rule("detection_f1.both_empty", both_empty, (1.0,))

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """A row for each match, miss and false alarm of each class.

        Args:
            prediction: With objects.
            reference: With objects.

        Returns:
            The rows, class by class.

        Raises:
            DataError: Prediction and reference do not belong together, or lack objects.
        """
        found, wanted = objects_of(prediction, reference)
        found = found.select(found.scores >= self.min_score)
        to_mm = reference.geometry.affine[:-1, :-1].T
        rows = []
        for structure in prediction.classes:
            of_class, referred = (each.select(each.labels == structure.value) for each in (found, wanted))
            distances_mm = cdist(of_class.centers @ to_mm, referred.centers @ to_mm)
            rows += [
                EvidenceRow(
                    case_id=reference.case_id,
                    group=reference.group,
                    metric=self.name,
                    label=structure.name,
                    value=distance_mm,
                    score=math.nan if index is None else float(of_class.scores[index]),
                    outcome=outcome,
                )
                for outcome, distance_mm, index in _outcomes(distances_mm, self.distance_mm)
            ]
        return rows

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """F1 score by class over the objects of all rows, and the mean of the classes where it is defined."""
        by_label: dict[str, Counter[str]] = {}
        for row in rows:
            by_label.setdefault(row.label, Counter())[row.outcome] += 1
        scores = {label: self._f1(counts) for label, counts in by_label.items()}
        return {**scores, MEAN: defined_mean(scores.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable; undefined is written as a word, since nan is not equal to itself."""
        return {
            "implementation": f"medexp {__version__}, scipy {scipy.__version__}",
            "aggregation": "pooled over objects",
            "better": "higher",
            "unit": "fraction",
            "matching": "most pairs within the distance, then least sum of distances",
            "empty": {"both": rule_in_words(self.both_empty), "one": "0.0"},
            "parameters": {"distance_mm": self.distance_mm, "min_score": self.min_score},
        }

    def _f1(self, counts: Counter[str]) -> float:
        matches = counts[Outcome.MATCH]
        all_of_them = 2 * matches + counts[Outcome.MISS] + counts[Outcome.FALSE_ALARM]
        return 2 * matches / all_of_them if all_of_them else float(self.both_empty)


def _outcomes(
    distances_mm: Float[np.ndarray, "found wanted"], largest_mm: float
) -> Iterator[tuple[Outcome, float, int | None]]:
    """Outcome, distance and predicted object: matches, misses and false alarms, or that there is nothing."""
    found, wanted = _assigned(distances_mm, largest_mm)
    for index, other in zip(found.tolist(), wanted.tolist(), strict=True):
        yield Outcome.MATCH, float(distances_mm[index, other]), index
    n_found, n_wanted = distances_mm.shape
    for _ in range(n_wanted - len(wanted)):
        yield Outcome.MISS, math.nan, None
    for index in np.setdiff1d(np.arange(n_found), found).tolist():
        yield Outcome.FALSE_ALARM, math.nan, index
    if not n_found and not n_wanted:
        yield Outcome.NONE, math.nan, None


def _assigned(
    distances_mm: Float[np.ndarray, "found wanted"], largest_mm: float
) -> tuple[Integer[np.ndarray, "pairs"], Integer[np.ndarray, "pairs"]]:
    """The most pairs within the distance and, of these, the nearest ones."""
    near = distances_mm <= largest_mm
    # A pair that is no match costs more than all matches together can.
    costs = np.where(near, distances_mm, (min(distances_mm.shape) + 1) * largest_mm)
    found, wanted = linear_sum_assignment(costs)
    is_match = near[found, wanted]
    return found[is_match], wanted[is_match]
