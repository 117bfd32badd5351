"""Area under the receiver operating characteristic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from scipy.stats import mannwhitneyu

from medexp import __version__
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction
from medexp.metrics._per_case import MEAN, defined_mean
from medexp.metrics._scores import scores_of


class AUROC:
    """Probability that an image of a class has a higher score for it than an image of another; ties count half.

    Source: J. A. Hanley and B. J. McNeil, The meaning and use of the area under a receiver operating characteristic
    (ROC) curve, Radiology 143 (1982). Each class is compared with the rest, and the mean is over the classes; with two
    classes that exclude each other both have the same value. No image has a value of its own: a row holds the score of
    a class and whether the class is true.
    """

    name = "auroc"
    higher_is_better = True
    takes = Kind.SCORES
    per_case = False

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class: its score, and whether it is true."""
        return [
            EvidenceRow(
                case_id=reference.case_id,
                group=reference.group,
                metric=self.name,
                label=structure.name,
                value=math.nan,
                score=float(score),
                outcome=Outcome.POSITIVE if truth else Outcome.NEGATIVE,
            )
            for structure, score, truth in zip(prediction.classes, *scores_of(prediction, reference), strict=True)
        ]

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Area by class, and the mean of the classes; nan where all rows of a class are true, or none is."""
        by_label: dict[str, list[EvidenceRow]] = {}
        for row in rows:
            by_label.setdefault(row.label, []).append(row)
        areas = {label: _area(own) for label, own in by_label.items()}
        return {**areas, MEAN: defined_mean(areas.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}, scipy {scipy.__version__}",
            "aggregation": "pooled, one class against the rest, mean over classes",
            "better": "higher",
            "unit": "fraction",
            "one_kind_only": "undefined",
        }


def _area(rows: Sequence[EvidenceRow]) -> float:
    """The statistic of Mann and Whitney over the number of pairs."""
    truths, scores = np.array([row.outcome == Outcome.POSITIVE for row in rows]), np.array([row.score for row in rows])
    if truths.all() or not truths.any():
        return math.nan
    pairs = truths.sum() * (~truths).sum()
    return float(mannwhitneyu(scores[truths], scores[~truths], method="asymptotic").statistic / pairs)
