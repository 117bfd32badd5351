"""How often objects are divided that are one, and joined that are several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Integer

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction
from medexp.metrics._matching import Compared, compared
from medexp.metrics._per_case import MEAN, defined_mean

_ERRORS = ("over_segmentation", "under_segmentation")


class Division:
    """Objects of the reference that are split, or predicted objects that merge several; each in its own class.

    An object of the reference is split where at least two predicted objects each lie in it with more than `min_share`
    of their own voxels. A predicted object is a merge where at least two objects of the reference each lie in it with
    more than `min_share` of theirs. As that is at least half, an object lies in one other at most, and the merges of a
    prediction are the splits with both images exchanged.

    Source: the classes "split" and "merged" of L. P. Coelho, A. Shariff and R. F. Murphy, Nuclear segmentation in
    microscope cell images, ISBI 2009. They assign an object to the one with which it shares most of its pixels; here
    it must share more than `min_share` of them, so that one that lies mostly in the background splits nothing.

    Where `reference.valid` is given, objects are what is annotated of them.

    The evidence is a row for each object of the reference (of the prediction, for merges), `Outcome.POSITIVE` where it
    is an error, whose value is the number of objects that lie in it, and a row `Outcome.NONE` for a class without any.

    Args:
        error: "over_segmentation", the splits, or "under_segmentation", the merges; the name of the metric.
        min_share: Share of an object's own voxels above which it lies in another one, from 0.5 to below 1.
        relative: The share of all objects that are looked at, undefined where there is none; else the number of errors.
        pooled: Over the objects of all cases, else the mean over cases.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.INSTANCES
    per_case = True
    higher_is_better = False

    def __init__(self, *, error: str, min_share: float, relative: bool, pooled: bool) -> None:
        if error not in _ERRORS:
            raise UsageError(f"over_segmentation.error needs {' or '.join(_ERRORS)}, got {error!r}")
        if not 0.5 <= min_share < 1:
            raise UsageError(f"{error}.min_share needs a value from 0.5 to below 1, got {min_share}")
        self.name = error
        self.min_share = float(min_share)
        self.relative = relative
        self.pooled = pooled

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """A row for each object that may be an error.

        Args:
            prediction: What is measured, with instances and objects.
            reference: The reference of the same case, with instances and objects on the same grid.

        Returns:
            The rows, class by class.

        Raises:
            DataError: Prediction and reference are not of the same case, grid and classes, or lack instances.
        """
        pair = compared(prediction, reference)
        over = self.name == "over_segmentation"
        parts = _parts(pair, self.min_share, over=over)
        labels, voxels = (
            (pair.wanted, pair.overlaps.second_voxels) if over else (pair.found, pair.overlaps.first_voxels)
        )
        found = []
        for structure in prediction.classes:
            own = parts[(labels == structure.value) & (voxels[1:] > 0)].tolist()
            outcomes = [(Outcome.POSITIVE if count > 1 else Outcome.NEGATIVE, float(count)) for count in own]
            found += [
                EvidenceRow(reference.case_id, reference.group, self.name, structure.name, count, outcome=outcome)
                for outcome, count in outcomes or [(Outcome.NONE, math.nan)]
            ]
        return found

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Number or share of the errors of each class, of all rows or as the mean over cases.

        Args:
            rows: Rows of this metric.

        Returns:
            The value by class, and under "mean" the mean over the classes where it is defined.

        Raises:
            UsageError: A class is called "mean".
        """
        by_label: dict[str, dict[str, list[str]]] = {}
        for row in rows:
            case = "" if self.pooled else row.case_id
            by_label.setdefault(row.label, {}).setdefault(case, []).append(row.outcome)
        if MEAN in by_label:
            raise UsageError(f'a class is called "{MEAN}", the key of the mean over classes; rename it in the dataset')
        values = {label: defined_mean(map(self._value, cases.values())) for label, cases in by_label.items()}
        return {**values, MEAN: defined_mean(values.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable."""
        unit = "fraction" if self.relative else "objects"
        return {
            "implementation": f"medexp {__version__}",
            "aggregation": "pooled over objects" if self.pooled else "per case",
            "better": "lower",
            "unit": unit,
            "unit_px": unit,
            "empty": {"no object to look at": "undefined" if self.relative else "0.0"},
            "parameters": {"error": self.name, "min_share": self.min_share, "relative": self.relative},
        }

    def _value(self, outcomes: Sequence[str]) -> float:
        errors = outcomes.count(Outcome.POSITIVE)
        if not self.relative:
            return float(errors)
        objects = errors + outcomes.count(Outcome.NEGATIVE)
        return errors / objects if objects else math.nan


def _parts(pair: Compared, min_share: float, *, over: bool) -> Integer[np.ndarray, "objects"]:
    """How many predicted objects lie in each object of the reference, or the other way round."""
    table = pair.overlaps
    inner, sizes = (table.first, table.first_voxels) if over else (table.second, table.second_voxels)
    outer, count = (table.second, len(pair.wanted)) if over else (table.first, len(pair.found))
    lies_in = pair.same_class & (table.shared > min_share * sizes[inner])
    parts: np.ndarray = np.bincount(outer[lies_in], minlength=count + 1)[1:]
    return parts
