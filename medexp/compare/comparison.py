"""What a comparison of methods found, as plain frozen values: tables, reports and JSON are made from these alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd


class Level(StrEnum):
    """How much a finding about fairness matters: an error refuses the comparison unless it is forced."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Answer(StrEnum):
    """What the one rule says of the first method of a pair, against the second."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SEPARABLE = "not separable"


@dataclass(frozen=True)
class Finding:
    """Something that a fair comparison needs to be equal, and is not.

    Attributes:
        level: How much it matters.
        what: What differs: "split", "data", "metric", "part", "budget", "precision", "initial weights", ...
        text: Which runs, what they have, and what to do.
    """

    level: Level
    what: str
    text: str


@dataclass(frozen=True)
class Fairness:
    """Whether the runs differ in nothing but the method.

    Attributes:
        findings: Errors first.
        forced: There are errors, and the comparison was made all the same.
    """

    findings: tuple[Finding, ...] = ()
    forced: bool = False

    def of(self, level: Level) -> tuple[Finding, ...]:
        """The findings of a level."""
        return tuple(finding for finding in self.findings if finding.level is level)


@dataclass(frozen=True)
class Method:
    """What is compared.

    Attributes:
        name: Its values of the axes in `Comparison.by`, e.g. "dice" or "dice, unet".
        axes: Its value by axis.
        differences: Where its configuration differs from the first method's (the baseline's), as `key: theirs -> own`.
    """

    name: str
    axes: Mapping[str, str]
    differences: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run that belongs to the comparison, whether it could be used or not.

    Attributes:
        folder: Where it is recorded.
        method: Name of its method.
        fold: Number of the held-out fold, as written in its configuration.
        seed: Its seed, as written in its configuration.
        status: State in a word, as `medexp status` tells it; only finished runs are used.
        problem: Why it is not used; empty for a finished one.
        collapsed: What of it collapsed, in words; see `medexp.compare.collapse`. It is used all the same.
        minutes: Time spent, summed over resumptions.
        history: Its learning curve, a line an epoch: "epoch", "step", "lr", "train/...", "val/..."; may be empty.
    """

    folder: Path
    method: str
    fold: str
    seed: str
    status: str
    problem: str = ""
    collapsed: tuple[str, ...] = ()
    minutes: float = 0.0
    history: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)

    @property
    def used(self) -> bool:
        """Whether its evidence takes part."""
        return self.status == "finished"


@dataclass(frozen=True)
class MetricFacts:
    """A metric as the runs recorded it.

    Attributes:
        name: Its name in rows and tables.
        better: "higher", "lower", or another word where it has no direction; it is described then and not judged.
        unit: Unit of its values.
        labels: Its labels, "mean" first.
        by_case: Its aggregate is a mean of values of cases; else it is re-aggregated with each group left out in turn.
        estimand: What is estimated, in words.
        definition: What the runs recorded of it.
    """

    name: str
    better: str
    unit: str
    labels: tuple[str, ...]
    by_case: bool
    estimand: str
    definition: Mapping[str, Any]


@dataclass(frozen=True)
class Score:
    """A method in a metric and label, over all its runs.

    Attributes:
        metric: Name of the metric.
        label: Class or region, or "mean".
        method: Name of the method.
        value: Mean over cases, each being the mean over its trainings; of the runs' aggregates where not `by_case`.
        low: Lower end of the interval of the two-level bootstrap, 95 %.
        high: Its upper end.
        training_sd: Standard deviation of the runs' values between trainings of a fold; nan with one training a fold.
        case_sd: Standard deviation between groups of their means over trainings (of pseudo-values where not `by_case`).
        n_defined: Cases with a value in at least one training (groups where not `by_case`).
        n_undefined: Cases with none.
        by_run: Value of each run by (fold, seed), as the run's own aggregate.
    """

    metric: str
    label: str
    method: str
    value: float
    low: float
    high: float
    training_sd: float
    case_sd: float
    n_defined: int
    n_undefined: int
    by_run: Mapping[tuple[str, str], float]


@dataclass(frozen=True)
class Verdict:
    """What the one rule decides; see `medexp.compare.verdict` and docs/decisions/0013.

    Attributes:
        answer: Whether the first method is better or worse than the second, or whether they cannot be told apart.
        difference: Estimated mean difference, first minus second, in the metric's unit.
        standard_error: Its standard error over cases and trainings; nan where it cannot be estimated.
        df: Satterthwaite's degrees of freedom.
        p: Two-sided p-value of the random-effects model.
        p_holm: The same after Holm, over all pairs of this metric and label.
        low: Lower end of the 95 % interval of the model, for this pair alone.
        high: Its upper end.
        smallest_difference: Difference that this many cases and trainings would have shown with a chance of 80 %.
        reason: Why it is not separable, where more than chance stands in the way (one training, one group, ...).
    """

    answer: Answer
    difference: float
    standard_error: float = math.nan
    df: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    low: float = math.nan
    high: float = math.nan
    smallest_difference: float = math.nan
    reason: str = ""


@dataclass(frozen=True)
class Description:
    """What describes a pair and decides nothing; trainings are averaged before p-values and wins are computed.

    Attributes:
        low: Lower end of the two-level bootstrap's interval of the difference, 95 %.
        high: Its upper end.
        wilcoxon_p: Of the signed-rank test over groups; nan where it has no meaning.
        wilcoxon_p_holm: The same after Holm.
        permutation_p: Of flipping the signs of the groups' differences.
        permutation_p_holm: The same after Holm.
        effect_size: Mean difference over the standard deviation of the groups' differences (Cohen's d_z).
        rank_biserial: Matched-pairs rank-biserial correlation, from -1 to 1.
        wins: Groups in which the first method is better.
        ties: Groups in which both are equal.
        losses: Groups in which the second is better.
    """

    low: float
    high: float
    wilcoxon_p: float
    wilcoxon_p_holm: float
    permutation_p: float
    permutation_p_holm: float
    effect_size: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class Pair:
    """Two methods in a metric and label.

    Attributes:
        metric: Name of the metric.
        label: Class or region, or "mean".
        first: Name of a method.
        second: Name of another, the baseline where there is one.
        verdict: What is decided.
        description: What stands beside it.
        n_cases: Cases that count: judged and defined in both, in the same training.
        n_groups: Independent units among them.
        n_trainings: Trainings (fold and seed) that both have.
        n_folds: Folds among them.
        left_out: Cases that one of them has and that do not count.
        case_sd: Standard deviation of the difference between groups, trainings averaged.
        training_sd: Standard deviation of the difference between trainings of a fold, cases averaged; nan with one.
    """

    metric: str
    label: str
    first: str
    second: str
    verdict: Verdict
    description: Description
    n_cases: int
    n_groups: int
    n_trainings: int
    n_folds: int
    left_out: int
    case_sd: float
    training_sd: float


@dataclass(frozen=True)
class Ranking:
    """The methods in a metric and label, best first, and how firmly they stand there.

    Attributes:
        metric: Name of the metric.
        label: Class or region, or "mean".
        methods: Names, best mean first.
        means: Mean of each over the groups that all have.
        chances: For each method the share of bootstrap resamples in which it has rank 1, 2, ...; rows sum to 1.
        tau: Kendall's tau between the ranks here and in a resample, mean over the resamples; 1 is firm.
        mean_ranks: Mean of each method's rank within groups (1 is best).
        friedman_p: Of Friedman's test over groups; nan with two methods.
        critical_difference: Of mean ranks, after Nemenyi at 5 %; nan with two methods.
        cliques: Sets of methods whose mean ranks differ by less, as a critical-difference diagram joins them.
        n_groups: Groups that all methods have.
    """

    metric: str
    label: str
    methods: tuple[str, ...]
    means: tuple[float, ...]
    chances: tuple[tuple[float, ...], ...]
    tau: float
    mean_ranks: tuple[float, ...]
    friedman_p: float
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    n_groups: int


@dataclass(frozen=True)
class StratumScore:
    """A method within a part of the cases; described, not judged.

    Attributes:
        factor: What the cases are parted by: "group", or a column of the table that was given.
        level: The part, e.g. "scanner A" or "size 0 to 4.5".
        metric: Name of the metric.
        label: Class or region, or "mean".
        method: Name of the method.
        value: Mean over the part's cases, trainings averaged (of the groups' pseudo-values where not by case).
        low: Lower end of the interval of the two-level bootstrap, 95 %; nan with one group.
        high: Its upper end.
        n_cases: Cases of the part that have a value.
    """

    factor: str
    level: str
    metric: str
    label: str
    method: str
    value: float
    low: float
    high: float
    n_cases: int


@dataclass(frozen=True)
class Comparison:
    """Everything that a comparison found.

    Attributes:
        by: Axes whose values make a method.
        baseline: Name of the method that all others are compared with; None where each is compared with each.
        methods: What is compared, the baseline first.
        runs: All runs, used or not.
        metrics: The metrics, the one that decides first.
        fairness: What the runs differ in beside the method.
        values: A line per run, case and label, with the columns "method", "fold", "seed", "case_id", "group", "metric",
            "label" and "value"; of metrics without a value per case "case_id" is empty and "value" is the group's
            pseudo-value.
        scores: By metric, label and method.
        pairs: By metric, label and pair.
        rankings: By metric and label.
        strata: By factor, level, metric, label and method.
        alpha: Level at which the rule decides.
        resamples: Of the bootstrap and of the permutations.
        bootstrap_seed: What they are drawn with.
        command: The command that makes it again.
        notes: What a reader must know.
    """

    by: tuple[str, ...]
    baseline: str | None
    methods: tuple[Method, ...]
    runs: tuple[Run, ...]
    metrics: tuple[MetricFacts, ...]
    fairness: Fairness
    values: pd.DataFrame = field(repr=False, compare=False)
    scores: tuple[Score, ...] = ()
    pairs: tuple[Pair, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    strata: tuple[StratumScore, ...] = ()
    alpha: float = 0.05
    resamples: int = 10_000
    bootstrap_seed: int = 0
    command: str = ""
    notes: tuple[str, ...] = ()

    def pairs_of(self, metric: str, label: str) -> tuple[Pair, ...]:
        """The pairs in a metric and label."""
        return tuple(pair for pair in self.pairs if (pair.metric, pair.label) == (metric, label))

    def scores_of(self, metric: str, label: str) -> tuple[Score, ...]:
        """The methods' scores in a metric and label."""
        return tuple(score for score in self.scores if (score.metric, score.label) == (metric, label))

    def as_plain(self) -> dict[str, Any]:
        """The same as plain values for JSON, where an undefined number is null."""
        plain: dict[str, Any] = _plain(self)
        return plain


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, pd.DataFrame):
        return [_plain(line) for line in value.to_dict("records")]
    if isinstance(value, Mapping):
        return {", ".join(key) if isinstance(key, tuple) else str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path | StrEnum) else value
