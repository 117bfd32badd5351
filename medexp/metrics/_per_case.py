"""What metrics with one value per case and class have in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from medexp import __version__
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import EvidenceRow, Kind, Prediction

MEAN = "mean"


class PerCaseMetric(ABC):
    """A metric that has a value for each case and class; a subclass says how the value is computed.

    Where `reference.valid` is given, both masks are restricted to the voxels that it marks, so that nothing outside the
    annotated part counts for or against a prediction. Surfaces are taken from the restricted masks: an object that the
    annotated part cuts has a surface along the cut.

    Attributes:
        name: Name of the metric in rows and tables.
        higher_is_better: Direction of improvement.
        unit: Unit of the value where the image has a physical scale.
        unit_px: Unit of the value where the image has none (`Geometry.unit` is "px").
        libraries: Libraries and versions, besides medexp, that the value depends on.
    """

    takes = Kind.MASK
    per_case = True
    name: str
    higher_is_better: bool
    unit: str
    unit_px: str
    libraries: str = ""

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """One row for each class of the prediction.

        Args:
            prediction: What is measured, with a mask.
            reference: The reference of the same case, with a mask of the same shape and classes.

        Returns:
            The rows, in the order of the classes.

        Raises:
            DataError: Prediction and reference are not of the same case, grid and classes.
        """
        _check_pair(prediction, reference)
        rows = []
        for structure in prediction.classes:
            masks = prediction.binary(structure), reference.binary(structure)
            if reference.valid is not None:
                masks = masks[0] & reference.valid, masks[1] & reference.valid
            value = float(self._value(*masks, reference.geometry))
            rows.append(EvidenceRow(reference.case_id, reference.group, self.name, structure.name, value))
        return rows

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Mean over cases for each label, and over labels; undefined values are left out.

        Args:
            rows: Rows of this metric.

        Returns:
            The mean over cases by label, and under "mean" the mean of these means; nan where no value is defined.

        Raises:
            UsageError: A class is called "mean".
        """
        means = means_by_label(rows)
        if MEAN in means:
            raise UsageError(f'a class is called "{MEAN}", the key of the mean over classes; rename it in the dataset')
        return {**means, MEAN: defined_mean(means.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable; undefined is written as a word, since nan is not equal to itself."""
        return {
            "implementation": ", ".join(filter(None, (f"medexp {__version__}", self.libraries))),
            "aggregation": "per case",
            "better": "higher" if self.higher_is_better else "lower",
            "unit": self.unit,
            "unit_px": self.unit_px,
            "empty": self._empty_rules(),
            "parameters": self._parameters(),
        }

    @abstractmethod
    def _value(
        self, prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], geometry: Geometry
    ) -> float:
        """The value of one class in one case."""

    @abstractmethod
    def _empty_rules(self) -> dict[str, str]:
        """Value by which of the masks are empty: "both" or "one"."""

    def _parameters(self) -> dict[str, float | str | bool]:
        """Every knob that changes a value, apart from the rules for empty masks."""
        return {}


def defined_mean(values: Iterable[float]) -> float:
    """Mean of the values that are not nan; nan where there is none.

    >>> defined_mean([1.0, float("nan"), 0.5])
    0.75
    """
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def means_by_label(rows: Sequence[EvidenceRow]) -> dict[str, float]:
    """The mean of the defined values of each label, in the order in which labels occur."""
    by_label: dict[str, list[float]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row.value)
    return {label: defined_mean(values) for label, values in by_label.items()}


def empty_rule(key: str, value: float | str, allowed: Sequence[float | str]) -> float | str:
    """A rule for empty masks as the configuration gives it: one of `allowed`, or undefined (nan).

    Args:
        key: Name of the knob with its metric, for the error.
        value: A number, a word, or nan (YAML reads `.nan` as a number and `nan` as a word; both are understood).
        allowed: Numbers and words beside nan.

    Returns:
        The rule as it stands in `allowed`, or nan.

    Raises:
        UsageError: The value is not among those allowed.
    """
    if value in ("nan", "undefined") or (isinstance(value, float) and math.isnan(value)):
        return math.nan
    for rule in allowed:
        if value == rule:
            return rule
    raise UsageError(f"{key} needs {' or '.join(map(repr, allowed))} or .nan (undefined), got {value!r}")


def rule_in_words(rule: float | str) -> str:
    """A rule for empty masks as the definition records it."""
    return "undefined" if isinstance(rule, float) and math.isnan(rule) else str(rule)


def _check_pair(prediction: Prediction, reference: Prediction) -> None:
    where = f"case {reference.case_id}"
    if prediction.case_id != reference.case_id:
        raise DataError(f"{where} was given the prediction of case {prediction.case_id}; pair them by case_id")
    if prediction.classes != reference.classes:
        raise DataError(
            f"{where}: prediction and reference need the same classes, got "
            f"{[c.name for c in prediction.classes]} and {[c.name for c in reference.classes]}; decode both by one task"
        )
    shapes = [None if mask is None else mask.shape[1:] for mask in (prediction.mask, reference.mask)]
    if None in shapes:
        lacking = "prediction" if shapes[0] is None else "reference"
        raise DataError(f"{where}: the {lacking} has no mask; end the post-processing chain with a step that makes one")
    if shapes[0] != shapes[1]:
        raise DataError(f"{where}: the masks need one grid, got {shapes[0]} and {shapes[1]}; undo the resampling first")
    if reference.valid is not None and (reference.valid.shape != shapes[1] or reference.valid.dtype != np.bool_):
        got = f"{reference.valid.dtype} and {reference.valid.shape}"
        raise DataError(f"{where}: valid needs dtype bool and shape {shapes[1]}, got {got}; decode it with the mask")
