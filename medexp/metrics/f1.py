"""F1 score of labels of whole images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._per_case import MEAN, defined_mean
from medexp.metrics._scores import Scored, most_probable, score_rows, scores_of


class F1:
    """Harmonic mean of precision and recall of each class, 2 TP / (2 TP + FP + FN), and its mean over the classes.

    Of classes that exclude each other the most probable one is predicted, the first of equal ones. The mean is that of
    the classes' scores ("macro"), not the score of mean precision and mean recall; for the difference see J. Opitz and
    S. Burst, Macro F1 and macro F1 (arXiv 1911.03347). No image has a value of its own: a row holds whether a class is
    predicted (value 1 or 0) and whether it is true.

    Args:
        threshold: Probability from which on a label is predicted, where several may hold at once.

    Raises:
        UsageError: The threshold is no probability.
    """

    name = "f1"
    higher_is_better = True
    takes = Kind.SCORES
    per_case = False

    def __init__(self, *, threshold: float) -> None:
        if not 0 <= threshold <= 1:
            raise UsageError(f"f1.threshold needs a value in [0, 1], got {threshold}")
        self.threshold = threshold

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class: whether it is predicted, its score, and whether it is true."""
        scores, _ = scores_of(prediction, reference)
        decided = most_probable(scores) if prediction.exclusive else scores >= self.threshold
        return score_rows(self.name, prediction, reference, decided=decided)

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Score by class, and their mean; nan for a class that is neither true nor predicted in any image."""
        scored = Scored.of(rows)
        matches = (scored.decided & scored.truths).sum(axis=0)
        counted = scored.decided.sum(axis=0) + scored.truths.sum(axis=0)
        values = np.divide(2.0 * matches, counted, out=np.full(len(counted), np.nan), where=counted > 0)
        by_label = dict(zip(scored.labels, values.tolist(), strict=True))
        return {**by_label, MEAN: defined_mean(by_label.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled by class, mean over classes",
            "better": "higher",
            "unit": "fraction",
            "absent_class": "undefined",
            "threshold": self.threshold,
        }
