"""Expected calibration error: how far confidence is from the share that is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._per_case import MEAN, defined_mean
from medexp.metrics._scores import Scored, check_exclusive, most_probable, score_rows, scores_of

_OF = ("top_label", "classes")


class CalibrationError:
    """Distance of mean confidence and share that is right within bins of confidence, averaged by their images.

    Source: C. Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3, for the probability of the most
    probable class; bins of equal width, each with its upper end, the first with 0 too. Under each class stands the same
    of the class's own probability and truth; the mean of these is the class-wise error of M. Kull et al., Beyond
    temperature scaling, NeurIPS 2019. The value is biased upwards where bins hold few images. No image has a value of
    its own: a row holds the score of a class, whether it is predicted (value 1 or 0) and whether it is true.

    Args:
        of: What stands under "mean": "top_label", the error of the most probable class, or "classes", the mean of the
            classes' errors.
        n_bins: Number of bins.

    Raises:
        UsageError: A knob has a value without meaning, or, when called, the top label is asked for where several labels
            may hold at once.
    """

    name = "calibration_error"
    higher_is_better = False
    takes = Kind.SCORES
    per_case = False

    def __init__(self, *, of: str, n_bins: int) -> None:
        if of not in _OF:
            raise UsageError(f"calibration_error.of needs {' or '.join(_OF)}, got {of}")
        if n_bins < 1:
            raise UsageError(f"calibration_error.n_bins needs a value >= 1, got {n_bins}")
        self.of = of
        self.n_bins = n_bins

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class: its score, whether it is predicted, and whether it is true.

        Args:
            prediction: Scores of the classes.
            reference: The true classes.

        Returns:
            The rows, in the order of the classes.
        """
        if self.of == "classes":
            return score_rows(self.name, prediction, reference)
        check_exclusive("calibration_error.of=top_label", prediction, instead="of=classes")
        decided = most_probable(scores_of(prediction, reference)[0])
        return score_rows(self.name, prediction, reference, decided=decided)

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Error of each class, and that of the most probable class or the mean of the classes."""
        scored = Scored.of(rows)
        by_label = {
            label: self._error(scores, truths)
            for label, scores, truths in zip(scored.labels, scored.scores.T, scored.truths.T, strict=True)
        }
        if self.of == "classes":
            return {**by_label, MEAN: defined_mean(by_label.values())}
        return {**by_label, MEAN: self._error(scored.scores[scored.decided], scored.truths[scored.decided])}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": f"pooled over images, {self.of}",
            "better": "lower",
            "unit": "fraction",
            "n_bins": self.n_bins,
        }

    def _error(self, confidences: Float[np.ndarray, "cases"], right: Bool[np.ndarray, "cases"]) -> float:
        if not len(right):
            return math.nan
        inner = np.arange(1, self.n_bins) / self.n_bins
        bins = np.searchsorted(inner, confidences, side="left")
        gaps = np.bincount(bins, weights=confidences - right, minlength=self.n_bins)
        return float(np.abs(gaps).sum() / len(right))
