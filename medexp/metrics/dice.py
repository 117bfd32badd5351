"""Dice similarity coefficient."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

from medexp.core.geometry import Geometry
from medexp.metrics._per_case import PerCaseMetric, empty_rule, rule_in_words


class Dice(PerCaseMetric):
    """Overlap of prediction P and reference R: 2 |P and R| / (|P| + |R|), a fraction between 0 and 1.

    Source: L. R. Dice, Measures of the amount of ecologic association between species, Ecology 26 (1945).

    Where exactly one of the masks is empty the formula gives 0.

    Args:
        both_empty: Value where both masks are empty: 1.0, or nan for undefined.

    Raises:
        UsageError: `both_empty` is neither.
    """

    name = "dice"
    higher_is_better = True
    unit = "fraction"
    unit_px = "fraction"

    def __init__(self, *, both_empty: float | str = math.nan) -> None:
        self.both_empty = empty_rule("dice.both_empty", both_empty, (1.0,))

    def _value(
        self, prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], geometry: Geometry
    ) -> float:
        total = np.count_nonzero(prediction) + np.count_nonzero(reference)
        if total == 0:
            return float(self.both_empty)
        return 2 * np.count_nonzero(prediction & reference) / total

    def _empty_rules(self) -> dict[str, str]:
        return {"both": rule_in_words(self.both_empty), "one": "0.0"}
