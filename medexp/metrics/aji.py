"""Aggregated Jaccard index of instances, and the variant in which each prediction counts once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy
from jaxtyping import Float, Integer
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medexp import __version__
from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Kind, Outcome, Prediction
from medexp.metrics._matching import Compared, compared
from medexp.metrics._per_case import MEAN, defined_mean, empty_rule, rule_in_words

_PAIRINGS = ("best", "unique")


class AggregatedJaccard:
    """Voxels that instances share with their partners over the voxels that either has, of all instances together.

    Each instance of the reference takes as partner the predicted one of its class with the highest IoU. Of the pairs
    the intersections are summed up, and the unions; an instance of the reference that overlaps none, and a predicted
    one that is nobody's partner, add their voxels to the unions.

    Sources: algorithm 1 of N. Kumar et al., A dataset and a technique for generalized nuclear segmentation for
    computational pathology, IEEE Transactions on Medical Imaging 36 (2017), in which a predicted instance can be the
    partner of several (`pairing="best"`); S. Graham et al., HoVer-Net, Medical Image Analysis 58 (2019), for AJI+, in
    which it is the partner of one, chosen so that the sum of the IoU is highest (`pairing="unique"`). The code that
    came with the former takes a partner away from those that follow, so that its value depends on the order of the
    instances; that is neither of the two.

    Where `reference.valid` is given, voxels that nobody annotated count for nothing.

    The evidence is, for each case and class, the number of voxels that are shared (`Outcome.MATCH`), that the reference
    alone has (`Outcome.MISS`) and that the prediction alone has (`Outcome.FALSE_ALARM`), a row each; a row
    `Outcome.NONE` for a class that neither has in the image.

    Args:
        name: Name of the metric in rows and tables.
        pairing: "best" or "unique".
        pooled: The voxels of all cases are summed up, else the mean over cases.
        both_empty: Value of a class that neither prediction nor reference has: 1.0, or nan for undefined. It counts in
            the mean over cases, and in a pooled value only where no case has an object of the class.

    Raises:
        UsageError: A knob has a value that is not listed.
    """

    takes = Kind.INSTANCES
    per_case = True
    higher_is_better = True

    def __init__(self, *, name: str, pairing: str, pooled: bool, both_empty: float | str) -> None:
        if pairing not in _PAIRINGS:
            raise UsageError(f"{name}.pairing needs {' or '.join(_PAIRINGS)}, got {pairing!r}")
        self.name = name
        self.pairing = pairing
        self.pooled = pooled
        self.both_empty = empty_rule(f"{name}.both_empty", both_empty, (1.0,))

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """The shared, the missed and the falsely found voxels of each class.

        Args:
            prediction: What is measured, with instances and objects.
            reference: The reference of the same case, with instances and objects on the same grid.

        Returns:
            The rows, class by class.

        Raises:
            DataError: Prediction and reference are not of the same case, grid and classes, or lack instances.
        """
        pair = compared(prediction, reference)
        partners = np.flatnonzero(pair.same_class)
        partners = partners[_best(pair, partners) if self.pairing == "best" else _unique(pair, partners)]
        return [
            EvidenceRow(reference.case_id, reference.group, self.name, structure.name, voxels, outcome=outcome)
            for structure in prediction.classes
            for outcome, voxels in _voxels(pair, partners, structure.value)
        ]

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """The index of each class, over the voxels of all rows or as the mean over cases.

        Args:
            rows: Rows of this metric.

        Returns:
            The index by class, and under "mean" the mean over the classes where it is defined.

        Raises:
            UsageError: A class is called "mean".
        """
        voxels: dict[str, dict[str, Counter[str]]] = {}
        for row in rows:
            of_case = voxels.setdefault(row.label, {}).setdefault("" if self.pooled else row.case_id, Counter())
            if row.outcome != Outcome.NONE:
                of_case[row.outcome] += int(row.value)
        if MEAN in voxels:
            raise UsageError(f'a class is called "{MEAN}", the key of the mean over classes; rename it in the dataset')
        values = {label: defined_mean(map(self._index, cases.values())) for label, cases in voxels.items()}
        return {**values, MEAN: defined_mean(values.values())}

    def definition(self) -> dict[str, Any]:
        """What makes two values comparable; undefined is written as a word, since nan is not equal to itself."""
        return {
            "implementation": f"medexp {__version__}, scipy {scipy.__version__}",
            "aggregation": "pooled over voxels" if self.pooled else "per case",
            "better": "higher",
            "unit": "fraction",
            "unit_px": "fraction",
            "empty": {"both": rule_in_words(self.both_empty), "one": "0.0"},
            "parameters": {"pairing": self.pairing},
        }

    def _index(self, voxels: Counter[str]) -> float:
        either = voxels.total()
        return voxels[Outcome.MATCH] / either if either else float(self.both_empty)


def _best(pair: Compared, pairs: Integer[np.ndarray, "pairs"]) -> Integer[np.ndarray, "chosen"]:
    """Places in `pairs` of the pair with the highest IoU of each instance of the reference; of equal ones the first."""
    order = np.lexsort((-pair.overlaps.iou[pairs], pair.overlaps.second[pairs]))
    first = np.unique(pair.overlaps.second[pairs][order], return_index=True)[1]
    chosen: np.ndarray = order[first]
    return chosen


def _unique(pair: Compared, pairs: Integer[np.ndarray, "pairs"]) -> Integer[np.ndarray, "chosen"]:
    """Places in `pairs` of pairs without a common instance, the sum of whose IoU is highest.

    Instances that no chain of overlaps connects are assigned apart, so that no table of all with all is needed.
    """
    predicted, referred = (ids[pairs] for ids in (pair.overlaps.first, pair.overlaps.second))
    iou, below = pair.overlaps.iou[pairs], len(pair.found) + 1
    side = below + len(pair.wanted) + 1
    graph = coo_array((np.ones(len(pairs)), (predicted, below + referred)), shape=(side, side))
    part = connected_components(graph, directed=False)[1][predicted]
    order = np.argsort(part, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(part[order])) + 1)
    return np.concatenate([own[_assigned(predicted[own], referred[own], iou[own])] for own in parts])


def _assigned(
    predicted: Integer[np.ndarray, "pairs"], referred: Integer[np.ndarray, "pairs"], iou: Float[np.ndarray, "pairs"]
) -> Integer[np.ndarray, "chosen"]:
    """Places of the pairs that the Hungarian method chooses."""
    (first, row), (second, column) = (np.unique(ids, return_inverse=True) for ids in (predicted, referred))
    table, place = np.zeros((len(first), len(second))), np.full((len(first), len(second)), -1)
    table[row, column], place[row, column] = iou, np.arange(len(iou))
    chosen: np.ndarray = place[linear_sum_assignment(table, maximize=True)]
    return chosen[chosen >= 0]


def _voxels(pair: Compared, partners: Integer[np.ndarray, "partners"], value: int) -> list[tuple[Outcome, float]]:
    """Shared, missed and falsely found voxels of a class, or that there is nothing."""
    table = pair.overlaps
    own = partners[pair.wanted[table.second[partners] - 1] == value]
    shared = int(table.shared[own].sum())
    wanted = int(table.second_voxels[1:][pair.wanted == value].sum())
    alone = pair.found == value
    alone[table.first[own] - 1] = False
    found = int(table.first_voxels[table.first[own]].sum() + table.first_voxels[1:][alone].sum())
    if not wanted + found:
        return [(Outcome.NONE, math.nan)]
    return [
        (Outcome.MATCH, float(shared)),
        (Outcome.MISS, float(wanted - shared)),
        (Outcome.FALSE_ALARM, float(found - shared)),
    ]
