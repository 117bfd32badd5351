"""Area under the receiver operating characteristic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Bool, Float
from scipy.stats import mannwhitneyu

from medexp import __version__
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._scores import by_class, score_rows


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
        return score_rows(self.name, prediction, reference)

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Area by class, and the mean of the classes; nan where all rows of a class are true, or none is."""
        return by_class(rows, _area)

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}, scipy {scipy.__version__}",
            "aggregation": "pooled, one class against the rest, mean over classes",
            "better": "higher",
            "unit": "fraction",
            "one_kind_only": "undefined",
        }


def _area(truths: Bool[np.ndarray, "cases"], scores: Float[np.ndarray, "cases"]) -> float:
    """The statistic of Mann and Whitney over the number of pairs."""
    if truths.all() or not truths.any():
        return math.nan
    pairs = truths.sum() * (~truths).sum()
    return float(mannwhitneyu(scores[truths], scores[~truths], method="asymptotic").statistic / pairs)
