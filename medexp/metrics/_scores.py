"""What metrics of scores of whole images have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from medexp.core.errors import DataError, UsageError
from medexp.core.types import EvidenceRow, Outcome, Prediction
from medexp.metrics._per_case import MEAN, defined_mean


def scores_of(
    prediction: Prediction, reference: Prediction
) -> tuple[Float[ndarray, "classes"], Float[ndarray, "classes"]]:
    """The scores of both, checked to be of one case and of the same classes.

    Args:
        prediction: What is measured.
        reference: What is true, 1 or 0 for each class.

    Returns:
        Scores of the prediction and of the reference.

    Raises:
        DataError: They are of different cases or classes, or have no scores.
    """
    where = f"case {reference.case_id}"
    if prediction.case_id != reference.case_id or prediction.classes != reference.classes:
        raise DataError(f"{where} was given a prediction of another case or of other classes; decode both by one task")
    if prediction.scores is None or reference.scores is None:
        raise DataError(f"{where} has no scores of the whole image; choose metrics that fit the task")
    return prediction.scores, reference.scores


def score_rows(
    metric: str, prediction: Prediction, reference: Prediction, *, decided: Bool[ndarray, "classes"] | None = None
) -> list[EvidenceRow]:
    """One row for each class, in their order: its score, and whether it is true.

    Args:
        metric: Name of the metric.
        prediction: What is measured.
        reference: What is true.
        decided: Which classes are predicted to hold: `value` is then 1 or 0, otherwise nan.

    Returns:
        The rows.

    Raises:
        DataError: Prediction and reference do not belong together, or have no scores.
    """
    scores, truths = scores_of(prediction, reference)
    values = np.full(len(scores), math.nan) if decided is None else decided.astype(float)
    return [
        EvidenceRow(
            case_id=reference.case_id,
            group=reference.group,
            metric=metric,
            label=structure.name,
            value=float(value),
            score=float(score),
            outcome=Outcome.POSITIVE if truth else Outcome.NEGATIVE,
        )
        for structure, value, score, truth in zip(prediction.classes, values, scores, truths, strict=True)
    ]


def check_exclusive(metric: str, prediction: Prediction, *, instead: str) -> None:
    """Refuse classes that may hold at once; UsageError says what to choose instead."""
    if not prediction.exclusive:
        raise UsageError(f"{metric} needs classes that exclude each other; choose {instead} for several labels")


def most_probable(scores: Float[ndarray, "classes"]) -> Bool[ndarray, "classes"]:
    """True for the class with the highest score; of equal ones for the first."""
    return np.arange(len(scores)) == scores.argmax()


@dataclass(frozen=True, eq=False)
class Scored:
    """Rows of `score_rows` as arrays.

    Attributes:
        labels: Names of the classes, in their order.
        scores: Of each case and class.
        truths: Whether the class is true.
        decided: Whether it is predicted to hold; False where the rows do not say.
    """

    labels: tuple[str, ...]
    scores: Float[ndarray, "cases classes"]
    truths: Bool[ndarray, "cases classes"]
    decided: Bool[ndarray, "cases classes"]

    @classmethod
    def of(cls, rows: Sequence[EvidenceRow]) -> Scored:
        """Put the rows of each case side by side; a case that stands there twice counts as two.

        Args:
            rows: Rows of whole cases, each with a row for every class and in the same order.

        Returns:
            The arrays, of no classes where there is no row.

        Raises:
            DataError: A case lacks a class.
        """
        labels = tuple(dict.fromkeys(row.label for row in rows))
        width = len(labels)
        names = [row.label for row in rows]
        if width and (len(names) % width or names != [*labels] * (len(names) // width)):
            raise DataError(f"the rows of a metric of scores need each of {list(labels)} in every case; judge it anew")
        shape = (len(rows) // width if width else 0, width)
        return cls(
            labels=labels,
            scores=np.array([row.score for row in rows]).reshape(shape),
            truths=np.array([row.outcome == Outcome.POSITIVE for row in rows], dtype=bool).reshape(shape),
            decided=np.array([row.value == 1 for row in rows], dtype=bool).reshape(shape),
        )


def by_class(
    rows: Sequence[EvidenceRow], value: Callable[[Bool[ndarray, "cases"], Float[ndarray, "cases"]], float]
) -> dict[str, float]:
    """A value of each class against the rest, from whether it is true and its score, and their mean.

    Args:
        rows: Rows of `score_rows`.
        value: Of the truths and the scores of one class; nan where it is undefined.

    Returns:
        The value by class, and under "mean" the mean of those that are defined.
    """
    scored = Scored.of(rows)
    columns = zip(scored.labels, scored.truths.T, scored.scores.T, strict=True)
    values = {label: value(truths, scores) for label, truths, scores in columns}
    return {**values, MEAN: defined_mean(values.values())}
