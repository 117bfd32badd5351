"""Choosing a chain of post-processing on validation cases, and what it gains on cases that had no say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from medexp.core.errors import UsageError
from medexp.core.instantiate import instantiate
from medexp.core.types import EvidenceRow, Kind, Metric, Prediction
from medexp.post_processing.chain import Chain

ChainConfig = Sequence[Mapping[str, Any]]
# Evidence rows of a case by its group and id.
Rows = dict[tuple[str, str], list[EvidenceRow]]


@dataclass(frozen=True)
class Gain:
    """What a choice gains in a metric, and how sure that is.

    Attributes:
        metric: Name of the metric.
        before: Aggregate with the run's own chain.
        after: Aggregate with what was chosen.
        gain: Their difference, positive where it is better.
        low: Lower end of the interval of the gain; nan with one group.
        high: Its upper end.
    """

    metric: str
    before: float
    after: float
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Tuned:
    """What came out.

    Attributes:
        metric: What was maximised (or minimised).
        candidates: Each chain with its aggregate on the validation cases, the run's own first.
        chosen: Place of the chosen one.
        nested: The gain was measured by leaving each group out of the choice in turn, on the validation cases; else it
            was measured on the test part.
        gains: By metric.
        optimistic: The gain of the choice on the cases that it was made on.
        n_groups: Independent units that the gains were measured on.
        n_cases: Cases that they were measured on.
    """

    metric: str
    candidates: tuple[tuple[ChainConfig, float], ...]
    chosen: int
    nested: bool
    gains: tuple[Gain, ...]
    optimistic: float
    n_groups: int
    n_cases: int

    def as_plain(self) -> dict[str, Any]:
        """The same as plain values for JSON, where an undefined number is null."""
        plain = asdict(self)
        plain["candidates"] = [{"steps": [dict(s) for s in chain], "value": value} for chain, value in self.candidates]
        return {key: _without_nan(value) for key, value in plain.items()}


class Tuning:
    """Candidate chains, judged case by case.

    Args:
        chains: Steps of each candidate as plain configurations, the run's own first.
        takes: What the task gives.
        gives: What must come out.
        metrics: The run's metrics.
        objective: Name of the metric by whose mean over the labels a chain is chosen.

    Raises:
        UsageError: There is no such metric, or a chain does not fit.
    """

    def __init__(
        self, chains: Sequence[ChainConfig], *, takes: Kind, gives: Kind, metrics: Sequence[Metric], objective: str
    ) -> None:
        self.configs = [[dict(step) for step in chain] for chain in chains]
        self.chains = [_built(chain, takes, gives) for chain in self.configs]
        self.metrics = {metric.name: metric for metric in metrics}
        if objective not in self.metrics:
            raise UsageError(f"--metric {objective} is none of the run's metrics ({', '.join(self.metrics)})")
        self.objective = objective

    def tune(
        self,
        val: Iterable[tuple[Prediction, Prediction]],
        test: Iterable[tuple[Prediction, Prediction]] | None,
        *,
        resamples: int,
        seed: int,
    ) -> Tuned:
        """Choose on validation cases, and measure the gain on others.

        Args:
            val: Predictions before post-processing and references of the validation cases.
            test: Those of the test part; None where there is none, and each validation group is then left out in turn.
            resamples: Of the bootstrap over groups.
            seed: Of the bootstrap.

        Returns:
            What came out.
        """
        table = self._table(val)
        values = [self._value(rows, self.objective) for rows in table]
        chosen = self._best(values)
        if test is None:
            by_group = {group: self._best_without(table, group) for group in dict.fromkeys(g for g, _ in table[0])}
            judged, choice = val, by_group
        else:
            judged, choice = test, {}
        before = self._rows_by_metric(judged, lambda group: 0)
        after = self._rows_by_metric(judged, lambda group: choice.get(group, chosen))
        gains = tuple(self._gain(name, before[name], after[name], resamples, seed) for name in self.metrics)
        cases = before[self.objective]
        return Tuned(
            metric=self.objective,
            candidates=tuple(zip(self.configs, values, strict=True)),
            chosen=chosen,
            nested=test is None,
            gains=gains,
            optimistic=self._better(values[0], values[chosen], self.objective),
            n_groups=len({group for group, _ in cases}),
            n_cases=len(cases),
        )

    def _table(self, cases: Iterable[tuple[Prediction, Prediction]]) -> list[Rows]:
        """For each chain the rows of the objective."""
        table: list[Rows] = [{} for _ in self.chains]
        for soft, reference in cases:
            for rows, final in zip(table, self._finals(soft), strict=True):
                rows[(soft.group, soft.case_id)] = self.metrics[self.objective].rows(final, reference)
        return table

    def _finals(self, soft: Prediction) -> Iterator[Prediction]:
        """What each chain makes of a case; steps that a chain has in common with the one before are not repeated."""
        done: list[Prediction] = [soft]
        before: list[dict[str, Any]] = []
        for config, chain in zip(self.configs, self.chains, strict=True):
            same = next((i for i, pair in enumerate(zip(config, before, strict=False)) if pair[0] != pair[1]), None)
            kept = min(len(config), len(before)) if same is None else same
            del done[kept + 1 :]
            for step in chain.steps[kept:]:
                done.append(step(done[-1]))
            before = config
            yield done[-1]

    def _rows_by_metric(self, cases: Iterable[tuple[Prediction, Prediction]], choice: Any) -> dict[str, Rows]:
        """Rows of each metric, each case by the chain that was chosen for its group."""
        found: dict[str, Rows] = {name: {} for name in self.metrics}
        for soft, reference in cases:
            final = self.chains[choice(soft.group)](soft)
            for name, metric in self.metrics.items():
                found[name][(soft.group, soft.case_id)] = metric.rows(final, reference)
        return found

    def _value(self, rows: Rows, name: str) -> float:
        return _mean(self.metrics[name], [row for own in rows.values() for row in own])

    def _best(self, values: Sequence[float]) -> int:
        """Place of the best value, the first of equal ones, so that nothing changes without a reason."""
        sign = 1 if self.metrics[self.objective].higher_is_better else -1
        ranked = [-math.inf if math.isnan(value) else sign * value for value in values]
        return int(np.argmax(ranked))

    def _best_without(self, table: Sequence[Rows], group: str) -> int:
        kept = [{key: own for key, own in rows.items() if key[0] != group} for rows in table]
        return self._best([self._value(rows, self.objective) for rows in kept])

    def _better(self, before: float, after: float, name: str) -> float:
        return (after - before) * (1 if self.metrics[name].higher_is_better else -1)

    def _gain(self, name: str, before: Rows, after: Rows, resamples: int, seed: int) -> Gain:
        values = self._value(before, name), self._value(after, name)
        groups = list(dict.fromkeys(group for group, _ in before))
        of_group = {group: [key for key in before if key[0] == group] for group in groups}
        random, found = np.random.default_rng(seed), []
        for _ in range(resamples if len(groups) > 1 else 0):
            drawn = [groups[place] for place in random.integers(0, len(groups), len(groups))]
            pair = [self._resampled(rows, drawn, of_group, name) for rows in (before, after)]
            found.append(self._better(pair[0], pair[1], name))
        defined = [gain for gain in found if not math.isnan(gain)]
        low, high = np.quantile(defined, [0.025, 0.975]) if defined else (math.nan, math.nan)
        return Gain(name, *values, self._better(*values, name), float(low), float(high))

    def _resampled(
        self,
        rows: Rows,
        drawn: Sequence[str],
        of_group: Mapping[str, Sequence[tuple[str, str]]],
        name: str,
    ) -> float:
        """The aggregate where groups are drawn with their cases; a case drawn twice counts as two."""
        copies = [
            row._replace(case_id=f"{turn}/{row.case_id}")
            for turn, group in enumerate(drawn)
            for key in of_group[group]
            for row in rows[key]
        ]
        return _mean(self.metrics[name], copies)


def _built(config: ChainConfig, takes: Kind, gives: Kind) -> Chain:
    steps = [instantiate(OmegaConf.create(dict(s)), f"post_processing.steps[{i}]") for i, s in enumerate(config)]
    return Chain(steps, takes=takes, gives=gives)


def _mean(metric: Metric, rows: Sequence[EvidenceRow]) -> float:
    return metric.aggregate(rows).get("mean", math.nan) if rows else math.nan


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
