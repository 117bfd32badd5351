"""What is paired: a value for each method, unit (case or group) and training, from evidence rows alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medexp.compare.runs import Training
from medexp.core.types import EvidenceRow, Metric

MEAN = "mean"
# How definitions begin of which an aggregate over cases is no mean of the cases' own values.
_NOT_BY_CASE = ("pooled", "mean over classes")
Values = dict[str, dict[tuple[str, str], float]]


@dataclass(frozen=True, eq=False)
class Cells:
    """The values of one metric and label.

    Attributes:
        methods: Names.
        units: Ids of the units: cases, or groups where the metric has no value per case.
        group_of: Index of each unit's group.
        groups: Names of the groups, which are independent of each other.
        trainings: Fold and seed of each training.
        values: A value for each method, unit and training; nan where not judged or undefined.
    """

    methods: tuple[str, ...]
    units: tuple[str, ...]
    group_of: Integer[np.ndarray, "units"]
    groups: tuple[str, ...]
    trainings: tuple[Training, ...]
    values: Float[np.ndarray, "methods units trainings"]

    @property
    def seed_of(self) -> Integer[np.ndarray, "trainings"]:
        """Index of each training's seed."""
        return np.unique([seed for _, seed in self.trainings], return_inverse=True)[1]

    def select(self, units: Bool[np.ndarray, "units"]) -> Cells:
        """The same of some units only."""
        used, group_of = np.unique(self.group_of[units], return_inverse=True)
        return replace(
            self,
            units=tuple(np.array(self.units, dtype=object)[units].tolist()),
            group_of=group_of,
            groups=tuple(self.groups[index] for index in used),
            values=self.values[:, units],
        )

    def of(self, method: str) -> Float[np.ndarray, "units trainings"]:
        """The values of a method."""
        return self.values[self.methods.index(method)]

    def difference(self, first: str, second: str) -> Float[np.ndarray, "units trainings"]:
        """Paired differences, first minus second; nan where one of them is."""
        return self.of(first) - self.of(second)

    def common(self) -> Bool[np.ndarray, "units trainings"]:
        """Where all methods have a value."""
        return np.isfinite(self.values).all(axis=0)


def is_by_case(metric: Metric) -> bool:
    """Whether the metric's aggregate is a mean of values of cases; else it is aggregated anew without each group."""
    aggregation = str(metric.definition().get("aggregation", "per case"))
    return metric.per_case and not aggregation.startswith(_NOT_BY_CASE)


def evidence_rows(table: pd.DataFrame, metric: str) -> list[EvidenceRow]:
    """The rows of a metric as the metric gave them.

    Args:
        table: As `RecordedRun.evidence` reads it.
        metric: Name of the metric.

    Returns:
        The rows, in their order.
    """
    own = table[table["metric"] == metric]
    columns = ("case_id", "group", "label", "value", "score", "outcome", "threshold")
    return [
        EvidenceRow(case_id=case, group=group, metric=metric, label=label, value=v, score=s, outcome=out, threshold=t)
        for case, group, label, v, s, out, t in zip(*(own[name].tolist() for name in columns), strict=True)
    ]


def case_values(rows: Sequence[EvidenceRow], metric: Metric) -> Values:
    """A value for each label and case; under "mean" the mean over the case's defined labels.

    Args:
        rows: Rows of the metric.
        metric: The metric.

    Returns:
        By label, and by case and group.
    """
    of_case: dict[tuple[str, str], list[EvidenceRow]] = {}
    for row in rows:
        of_case.setdefault((row.case_id, row.group), []).append(row)
    found: Values = {MEAN: {}}
    for case, own in of_case.items():
        values = {label: value for label, value in metric.aggregate(own).items() if label != MEAN}
        for label, value in values.items():
            found.setdefault(label, {})[case] = value
        defined = [value for value in values.values() if not math.isnan(value)]
        found[MEAN][case] = math.fsum(defined) / len(defined) if defined else math.nan
    return found


def pseudo_values(rows: Sequence[EvidenceRow], metric: Metric) -> Values:
    """A value for each label and group, whose mean is the aggregate and whose spread is that of the aggregate.

    With n groups, aggregate t, and t_i without group i: t + (n - 1) (mean of t_j - t_i), the jackknife's pseudo-values
    moved so that their mean is t itself. Their variance over n estimates the variance of t between samples of groups.
    Source: J. W. Tukey, Bias and confidence in not-quite large samples, Annals of Mathematical Statistics 29 (1958);
    for the area under the ROC curve it is, but for terms of 1/n, that of DeLong et al. (1988).

    Args:
        rows: Rows of the metric.
        metric: The metric.

    Returns:
        By label, and by group; nan where the aggregate is undefined, or becomes so without one of the groups.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    total = metric.aggregate(rows)
    without = [metric.aggregate([row for row in rows if row.group != group]) for group in groups]
    found: Values = {}
    for label, value in total.items():
        left = np.array([rest.get(label, math.nan) for rest in without])
        pseudo = value + (len(groups) - 1) * (left.mean() - left)
        found[label] = {(group, group): float(own) for group, own in zip(groups, pseudo, strict=True)}
    return found


def cells_of(values: Mapping[str, Mapping[Training, Values]], label: str) -> Cells:
    """The cells of a label.

    Args:
        values: By method, training, label and unit.
        label: Class or region, or "mean".

    Returns:
        The cells, units sorted by id and trainings by fold and seed.
    """
    of_training = {method: {t: own.get(label, {}) for t, own in by.items()} for method, by in values.items()}
    units = sorted({unit for by in of_training.values() for own in by.values() for unit in own})
    trainings = sorted({training for by in of_training.values() for training in by}, key=_numbers_as_numbers)
    groups = sorted({group for _, group in units})
    place = {group: index for index, group in enumerate(groups)}
    array = np.full((len(of_training), len(units), len(trainings)), math.nan)
    for m, by in enumerate(of_training.values()):
        for t, training in enumerate(trainings):
            own = by.get(training, {})
            array[m, :, t] = [own.get(unit, math.nan) for unit in units]
    return Cells(
        methods=tuple(of_training),
        units=tuple(name for name, _ in units),
        group_of=np.array([place[group] for _, group in units], dtype=np.int64),
        groups=tuple(groups),
        trainings=tuple(trainings),
        values=array,
    )


def _numbers_as_numbers(training: Training) -> tuple[tuple[bool, float, str], ...]:
    return tuple((not word.isdigit(), float(word) if word.isdigit() else 0.0, word) for word in training)


def strata_of(
    present: Bool[np.ndarray, "units trainings"],
) -> tuple[Integer[np.ndarray, "units"], Integer[np.ndarray, "trainings"]]:
    """Which units and trainings belong together: in cross-validation the folds, each with units of its own.

    Args:
        present: Where there is a value.

    Returns:
        Stratum of each unit and of each training; those without any value have strata of their own.
    """
    n_units, n_trainings = present.shape
    rows, columns = np.nonzero(present)
    graph = coo_array(
        (np.ones(len(rows)), (rows, columns + n_units)), shape=(n_units + n_trainings, n_units + n_trainings)
    )
    _, label = connected_components(graph, directed=False)
    return label[:n_units], label[n_units:]
