"""Cohen's kappa: agreement of predicted and true class beyond chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Prediction
from medexp.metrics._per_case import MEAN
from medexp.metrics._scores import Scored, check_exclusive, most_probable, score_rows, scores_of

_POWERS = {None: 0, "linear": 1, "quadratic": 2}


class Kappa:
    """1 - (weighted disagreement) / (that of an independent prediction with the same shares of the classes).

    Sources: J. Cohen, A coefficient of agreement for nominal scales, Educational and Psychological Measurement 20
    (1960); with weights for classes that have an order, J. Cohen, Weighted kappa, Psychological Bulletin 70 (1968): a
    disagreement of d ranks weighs d, or d squared. The order is that of the label ids.

    Under each class stands the kappa of the class against the rest, on which weights have no effect; under "mean" the
    kappa of all classes, which is no mean of these. No image has a value of its own: a row holds whether a class is
    predicted (value 1 or 0) and whether it is true.

    Args:
        name: Name of the metric in rows and tables; two variants in one experiment need two names.
        weights: None, "linear" or "quadratic".

    Raises:
        UsageError: The weights are none of these, or, when called, several classes may hold at once.
    """

    higher_is_better = True
    takes = Kind.SCORES
    per_case = False

    def __init__(self, *, name: str, weights: str | None) -> None:
        if weights not in _POWERS:
            raise UsageError(f"{name}.weights needs null, linear or quadratic, got {weights}")
        self.name = name
        self.weights = weights

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class: whether it is predicted, its score, and whether it is true."""
        check_exclusive(self.name, prediction, instead="metrics=[auroc,f1]")
        decided = most_probable(scores_of(prediction, reference)[0])
        return score_rows(self.name, prediction, reference, decided=decided)

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Kappa of each class against the rest, and that of all; nan where chance alone never disagrees."""
        scored = Scored.of(rows)
        by_label = {
            label: _kappa(_with_rest(decided), _with_rest(truths), power=0)
            for label, decided, truths in zip(scored.labels, scored.decided.T, scored.truths.T, strict=True)
        }
        return {**by_label, MEAN: _kappa(scored.decided, scored.truths, power=_POWERS[self.weights])}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled over images",
            "better": "higher",
            "unit": "fraction",
            "one_class_only": "undefined",
            "weights": self.weights or "none",
        }


def _with_rest(column: Bool[np.ndarray, "cases"]) -> Bool[np.ndarray, "cases two"]:
    return np.stack([column, ~column], axis=1)


def _kappa(
    decided: Bool[np.ndarray, "cases classes"], truths: Bool[np.ndarray, "cases classes"], *, power: int
) -> float:
    """Kappa where a disagreement of d ranks weighs d to the power; 0: all disagreements weigh alike."""
    cases, classes = truths.shape
    ranks = np.arange(classes)
    distance = np.abs(ranks[:, None] - ranks)
    weights = distance**power * (distance > 0)
    found = (weights * (truths.T.astype(float) @ decided.astype(float))).sum() * cases
    by_chance = (weights * np.outer(truths.sum(axis=0), decided.sum(axis=0))).sum()
    return float(1 - found / by_chance) if by_chance > 0 else math.nan
