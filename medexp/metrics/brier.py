"""Squared error of the probabilities of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medexp import __version__
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._per_case import MEAN, defined_mean, means_by_label
from medexp.metrics._scores import scores_of


class Brier:
    """Squared difference between the probability of a class and the truth, 1 or 0, for each image and class.

    Source: G. W. Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78 (1950).
    He adds up the classes; here the mean is over them, so that several labels that may hold at once are judged on the
    same scale, from 0 to 1, and two classes that exclude each other have the usual score of one of them. For Brier's
    sum multiply by the number of classes. It is a proper score: the true probabilities have the lowest expectation.
    """

    name = "brier"
    higher_is_better = False
    takes = Kind.SCORES
    per_case = True

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class with its squared error."""
        errors = [(score - truth) ** 2 for score, truth in zip(*scores_of(prediction, reference), strict=True)]
        return [
            EvidenceRow(reference.case_id, reference.group, self.name, structure.name, float(error))
            for structure, error in zip(prediction.classes, errors, strict=True)
        ]

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Mean over images by class, and the mean of the classes."""
        means = means_by_label(rows)
        return {**means, MEAN: defined_mean(means.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "per case, mean of classes",
            "better": "lower",
            "unit": "squared probability",
        }
