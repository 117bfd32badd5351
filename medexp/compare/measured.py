"""A metric's values in every run, computed from evidence rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from medexp.compare.comparison import MetricFacts
from medexp.compare.runs import RecordedRun, Training
from medexp.compare.units import MEAN, Values, case_values, evidence_rows, is_by_case, pseudo_values
from medexp.core.types import EvidenceRow, Metric

Methods = dict[str, dict[Training, RecordedRun]]


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric in every run.

    Attributes:
        metric: The metric.
        rows: Its evidence by method and training.
    """

    metric: Metric
    rows: Mapping[str, Mapping[Training, Sequence[EvidenceRow]]]

    @cached_property
    def values(self) -> dict[str, dict[Training, Values]]:
        """By method, training, label and unit: a case, or a group where the metric has no value per case."""
        compute = case_values if is_by_case(self.metric) else pseudo_values
        return {
            method: {training: compute(rows, self.metric) for training, rows in own.items()}
            for method, own in self.rows.items()
        }

    @cached_property
    def totals(self) -> dict[str, dict[Training, dict[str, float]]]:
        """The runs' own aggregates by method, training and label."""
        return {
            method: {training: self.metric.aggregate(rows) for training, rows in own.items()}
            for method, own in self.rows.items()
        }

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels, "mean" first; "mean" alone where there is only one."""
        labels = self._own_labels
        return (MEAN, *(labels if len(labels) > 1 else ()))

    @cached_property
    def group_of_case(self) -> dict[str, str]:
        """Group by case id."""
        return {row.case_id: row.group for own in self.rows.values() for rows in own.values() for row in rows}

    @cached_property
    def facts(self) -> MetricFacts:
        """What is recorded of the metric, and what is estimated."""
        definition, name, labels = self.metric.definition(), self.metric.name, self._own_labels
        over = f"the only label, {labels[0]}" if len(labels) == 1 else f"the labels that it has ({', '.join(labels)})"
        of_cases = f'mean over cases of {name} ("mean": of a case the mean over {over})'
        pooled = f"mean over trainings of {name} over all cases ({definition.get('aggregation')})"
        by_case = is_by_case(self.metric)
        return MetricFacts(
            name=name,
            better=str(definition.get("better", "higher" if self.metric.higher_is_better else "lower")),
            unit=str(definition.get("unit", "")),
            labels=self.labels,
            by_case=by_case,
            estimand=f"difference of the {of_cases if by_case else pooled}, for groups and trainings like these",
            definition=definition,
        )

    def within(self, cases: frozenset[str]) -> Measured:
        """The same of some cases only, aggregated anew; trainings that judged none of them are left out."""
        kept = {
            method: {training: [row for row in rows if row.case_id in cases] for training, rows in own.items()}
            for method, own in self.rows.items()
        }
        return Measured(
            self.metric, {method: {t: rows for t, rows in own.items() if rows} for method, own in kept.items()}
        )

    @property
    def _own_labels(self) -> list[str]:
        rows = (row for own in self.rows.values() for rows in own.values() for row in rows)
        return list(dict.fromkeys(row.label for row in rows))


def measure(metric: Metric, methods: Methods, evidence: Mapping[Path, pd.DataFrame]) -> Measured:
    """A metric's evidence in every run.

    Args:
        metric: The metric.
        methods: The finished runs by method and training.
        evidence: All rows of a run by its folder.

    Returns:
        The metric's rows; a run without any is left out.
    """
    rows = {
        name: {training: evidence_rows(evidence[run.path], metric.name) for training, run in own.items()}
        for name, own in methods.items()
    }
    return Measured(metric, {name: {t: found for t, found in own.items() if found} for name, own in rows.items()})
