"""Intersection over union."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool

from medexp.core.geometry import Geometry
from medexp.metrics._per_case import PerCaseMetric, empty_rule, rule_in_words


class IoU(PerCaseMetric):
    """Overlap of prediction P and reference R: |P and R| / |P or R|, a fraction between 0 and 1.

    Source: P. Jaccard, The distribution of the flora in the alpine zone, New Phytologist 11 (1912).

    Where exactly one of the masks is empty the formula gives 0.

    Args:
        both_empty: Value where both masks are empty: 1.0, or nan for undefined.

    Raises:
        UsageError: `both_empty` is neither.
    """

    name = "iou"
    higher_is_better = True
    unit = "fraction"
    unit_px = "fraction"

    def __init__(self, *, both_empty: float | str = math.nan) -> None:
        self.both_empty = empty_rule("iou.both_empty", both_empty, (1.0,))

    def _value(
        self, prediction: Bool[np.ndarray, "*spatial"], reference: Bool[np.ndarray, "*spatial"], geometry: Geometry
    ) -> float:
        union = np.count_nonzero(prediction | reference)
        if union == 0:
            return float(self.both_empty)
        return np.count_nonzero(prediction & reference) / union

    def _empty_rules(self) -> dict[str, str]:
        return {"both": rule_in_words(self.both_empty), "one": "0.0"}
