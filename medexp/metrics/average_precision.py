"""Average precision of labels of whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medexp import __version__
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._scores import by_class, score_rows


class AveragePrecision:
    """Precision at each score of a class, averaged by the recall that is won there: sum of (R_n - R_(n-1)) P_n.

    Images of equal score enter together, and nothing is interpolated, as in scikit-learn. A random score has about the
    share of the class among the images, which tells a rare class better than the area under the ROC curve does.
    Source: J. Davis and M. Goadrich, The relationship between precision-recall and ROC curves, ICML 2006. No image has
    a value of its own: a row holds the score of a class and whether the class is true.
    """

    name = "average_precision"
    higher_is_better = True
    takes = Kind.SCORES
    per_case = False

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class: its score, and whether it is true."""
        return score_rows(self.name, prediction, reference)

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Average precision by class, and the mean of the classes; nan for a class that no image has."""
        return by_class(rows, _average_precision)

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled, one class against the rest, mean over classes",
            "better": "higher",
            "unit": "fraction",
            "absent_class": "undefined",
        }


def _average_precision(truths: Bool[np.ndarray, "cases"], scores: Float[np.ndarray, "cases"]) -> float:
    if not truths.any():
        return math.nan
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = truths[order].cumsum()[ends]
    return float((np.diff(found, prepend=0) * found / (ends + 1)).sum() / truths.sum())
