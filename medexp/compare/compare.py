"""From run folders to a comparison."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from medexp.compare import fairness, pairs
from medexp.compare.bootstrap import Resampling
from medexp.compare.choice import Tuned, choose
from medexp.compare.collapse import collapsed
from medexp.compare.comparison import Comparison, Method, Run, StratumScore
from medexp.compare.measured import Measured, Methods, measure
from medexp.compare.ranks import ranking
from medexp.compare.runs import RecordedRun, by_method, method_axes, method_name
from medexp.compare.strata import Factors, parts, stratum_scores, with_groups
from medexp.compare.units import MEAN, Cells, cells_of
from medexp.compare.words import counted
from medexp.core.errors import UsageError, did_you_mean
from medexp.core.instantiate import instantiate, trust_folders
from medexp.core.types import Metric

# Of the bootstrap within a part of the cases.
_STRATUM_RESAMPLES = 2_000


@dataclass(frozen=True)
class Choices:
    """What the user asks for.

    Attributes:
        by: Axes whose values make a method; none for those on which the runs differ.
        metrics: Names of metrics, the one that decides first; none for all that every run has.
        baseline: Name of the method that others are compared with; None to compare each with each.
        alpha: Level at which the rule decides.
        resamples: Of the bootstrap and of the permutations.
        seed: What they are drawn with.
        force: Compare where it is not fair.
        factors: Level by case id, by factor.
        command: The command that makes the comparison again.
        searched: Axis of which each method is compared at the value that its validations chose; None for none.
    """

    by: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    baseline: str | None = None
    alpha: float = 0.05
    resamples: int = 10_000
    seed: int = 0
    force: bool = False
    factors: Factors | None = None
    command: str = ""
    searched: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"--alpha needs a value above 0 and below 1, got {self.alpha}")
        if self.resamples < 100:
            raise UsageError(f"--resamples needs 100 or more, got {self.resamples}")


def compare_runs(runs: Sequence[RecordedRun], choices: Choices) -> Comparison:
    """Compare methods by their runs.

    Args:
        runs: Runs of all methods, finished or not.
        choices: What is asked for.

    Returns:
        What was found.

    Raises:
        UsageError: There are fewer than two methods, an axis, a metric or the baseline does not exist, no case is
            shared, or the runs cannot be compared fairly and it is not forced.
        RecordError: Evidence is missing or damaged.
    """
    tuned = _tuned(runs, choices)
    runs = tuned.runs
    by = method_axes(runs, choices.by, searched=choices.searched)
    methods = _ordered(by_method(runs, by), runs, by, choices.baseline)
    names = _metric_names(methods, choices.metrics)
    extra = () if choices.searched is None else (choices.searched,)
    fair = fairness.check(methods, by=(*by, *extra), metrics=names, force=choices.force, searched=tuned.findings)
    evidence = {run.path: run.evidence() for own in methods.values() for run in own.values()}
    metrics = _metrics(methods, names)
    fair = replace(fair, findings=(*fair.findings, *fairness.changed_definitions(methods, metrics)))
    measured = [measure(metric, methods, evidence) for metric in metrics]
    _check_shared(measured[0])
    empty = Comparison(
        by=by,
        baseline=choices.baseline,
        methods=_described(methods, by),
        runs=tuple(_told(run, by, evidence.get(run.path)) for run in runs),
        metrics=tuple(one.facts for one in measured),
        fairness=fair,
        values=_table(measured),
        alpha=choices.alpha,
        resamples=choices.resamples,
        bootstrap_seed=choices.seed,
        command=choices.command,
    )
    filled = _filled(empty, measured, choices)
    return replace(filled, notes=(*tuned.notes, *filled.notes))


def _tuned(runs: Sequence[RecordedRun], choices: Choices) -> Tuned:
    """The runs of each method at the value that was chosen for it, where something was searched for."""
    if choices.searched is None:
        return Tuned(list(runs), (), ())
    if not choices.by:
        raise UsageError(f"--choose {choices.searched} needs --by: what makes a method, e.g. --by loss")
    metric = choices.metrics[0] if choices.metrics else None
    return choose(runs, choices.searched, by=choices.by, metric=metric)


def _filled(found: Comparison, measured: Sequence[Measured], choices: Choices) -> Comparison:
    for one in measured:
        for label in one.facts.labels:
            found = _with_label(found, one, label, choices)
    strata = tuple(part for one in measured for part in _strata(one, choices))
    return replace(found, strata=strata, notes=_notes(found))


def _described(methods: Methods, by: Sequence[str]) -> tuple[Method, ...]:
    changed = fairness.config_differences(methods)
    axes = {name: next(iter(own.values())) for name, own in methods.items()}
    return tuple(Method(name, {axis: run.value(axis) for axis in by}, changed[name]) for name, run in axes.items())


def _ordered(methods: Methods, runs: Sequence[RecordedRun], by: Sequence[str], baseline: str | None) -> Methods:
    """The methods by name, the baseline first."""
    if baseline is not None and baseline not in methods:
        known = sorted(methods)
        without = " has no finished run" if baseline in {method_name(run, by) for run in runs} else " is no method here"
        raise UsageError(f"--baseline {baseline}{without}{did_you_mean(baseline, known)} (known: {', '.join(known)})")
    if len(methods) < 2:
        states = ", ".join(f"{run.state.name} is {run.state.status}" for run in runs if not run.finished)
        raise UsageError(
            f"two methods with finished runs are needed, got {', '.join(methods) or 'none'} (by {', '.join(by)})"
            f"{f'; {states}' if states else ''}; name the axis that differs with --by, or give more runs"
        )
    return {name: methods[name] for name in sorted(methods, key=lambda name: (name != baseline, name))}


def _metric_names(methods: Methods, wanted: Sequence[str]) -> list[str]:
    runs = [run for own in methods.values() for run in own.values()]
    known = dict.fromkeys(name for run in runs for name in run.record.metrics)
    for name in wanted:
        if name not in known:
            raise UsageError(f"--metric {name}: no run has it{did_you_mean(name, known)} (known: {', '.join(known)})")
    shared = [name for name in known if all(name in run.record.metrics for run in runs)]
    if not wanted and not shared:
        raise UsageError(
            f"no metric was measured in all runs (known: {', '.join(known) or 'none'}); name one: --metric"
        )
    return list(dict.fromkeys(wanted)) or shared


def _metrics(methods: Methods, names: Sequence[str]) -> list[Metric]:
    """The metrics as the first run that has them configured them."""
    runs = [run for own in methods.values() for run in own.values()]
    built: dict[str, Metric] = {}
    for run in runs:
        if set(names) <= set(built):
            break
        trust_folders((run.config.get("paths") or {}).get("modules") or ())
        for key, config in (run.config.get("metrics") or {}).items():
            metric: Metric = instantiate(OmegaConf.create(config), f"metrics.{key}")
            built.setdefault(metric.name, metric)
    for name in names:
        if name not in built:
            raise UsageError(
                f"no run's configuration says how {name} is computed; restore config.yaml, or leave it out"
            )
    return [built[name] for name in names]


def _check_shared(measured: Measured) -> None:
    """Every two methods need a case in common."""
    cells = cells_of(measured.values, MEAN)
    for first, second in itertools.combinations(cells.methods, 2):
        if not np.isfinite(cells.difference(first, second)).any():
            raise UsageError(
                f"{first} and {second} share no case in any fold and seed: {first} has {_examples(cells, first)}, "
                f"{second} has {_examples(cells, second)}; run the same folds and seeds of both"
            )


def _examples(cells: Cells, method: str) -> str:
    """Where a method has values, for an error."""
    units, trainings = np.nonzero(np.isfinite(cells.of(method)))
    fold, seed = cells.trainings[trainings[0]] if len(trainings) else ("none", "none")
    names = [cells.units[unit] for unit in dict.fromkeys(units.tolist())]
    return f"{', '.join(names[:3]) or 'none'} (fold {fold}, seed {seed}, ...)"


def _told(run: RecordedRun, by: Sequence[str], evidence: pd.DataFrame | None) -> Run:
    fold, seed = run.training
    history = run.history()
    definitions = {} if run.state.record is None else run.record.metrics
    return Run(
        folder=run.path,
        method=method_name(run, by),
        fold=fold,
        seed=seed,
        status=run.state.status,
        problem="" if run.finished else run.state.reason,
        collapsed=() if evidence is None else tuple(collapsed(evidence, definitions, history)),
        minutes=run.state.minutes,
        history=history,
    )


def _table(measured: Sequence[Measured]) -> pd.DataFrame:
    columns = ["method", "fold", "seed", "case_id", "group", "metric", "label", "value"]
    lines = [
        (method, *training, unit if one.facts.by_case else "", group, one.facts.name, label, value)
        for one in measured
        for method, own in one.values.items()
        for training, by_label in own.items()
        for label in one.facts.labels
        for (unit, group), value in by_label.get(label, {}).items()
    ]
    return pd.DataFrame(lines, columns=columns)


def _with_label(found: Comparison, one: Measured, label: str, choices: Choices) -> Comparison:
    """The comparison with what a metric says of a label."""
    cells, facts = cells_of(one.values, label), one.facts
    resampling = Resampling.of(cells, resamples=choices.resamples, seed=choices.seed)
    chosen = _pairs(cells, choices.baseline)
    judge = pairs.Judge(facts=facts, label=label, cells=cells, resampling=resampling, alpha=choices.alpha)
    totals = {
        method: {training: total.get(label, math.nan) for training, total in own.items()}
        for method, own in one.totals.items()
    }
    order = (
        ranking(
            cells, resampling, metric=facts.name, label=label, higher=facts.better == "higher", by_case=facts.by_case
        )
        if facts.better in pairs.DIRECTIONS
        else None
    )
    return replace(
        found,
        scores=(*found.scores, *judge.scores(totals)),
        pairs=(*found.pairs, *judge.pairs(chosen)),
        rankings=(*found.rankings, *([order] if order is not None else [])),
    )


def _strata(one: Measured, choices: Choices) -> Iterator[StratumScore]:
    """Each part of the cases, in which the metric is aggregated anew; labels that a part has not got are left out."""
    factors = with_groups(choices.factors or {}, one.group_of_case)
    for factor, level, cases in parts(factors):
        inside = one.within(cases)
        for label in one.labels:
            names = (factor, level, one.facts.name, label)
            resamples = min(choices.resamples, _STRATUM_RESAMPLES)
            yield from stratum_scores(
                cells_of(inside.values, label), names, unit=one.facts.unit, resamples=resamples, seed=choices.seed
            )


def _pairs(cells: Cells, baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return list(itertools.combinations(cells.methods, 2))
    return [(method, baseline) for method in cells.methods if method != baseline]


def _undefined(found: Comparison) -> Iterator[str]:
    """Cases that have a label's value by some methods and not by others."""
    several = [facts.name for facts in found.metrics if len(facts.labels) > 1]
    table = found.values[~(found.values["metric"].isin(several) & (found.values["label"] == MEAN))]
    groups = table.groupby(["metric", "label", "fold", "seed", "case_id", "group"])["value"]
    mixed = groups.count()[lambda defined: (defined > 0) & (defined < groups.size())].reset_index()
    for (metric, label), lines in mixed.groupby(["metric", "label"], sort=False):
        count = len(lines[["case_id", "group"]].drop_duplicates())
        mean = (
            f"; the {MEAN} of such a case is over its other labels, so look at each label" if metric in several else ""
        )
        yield (
            f"{metric} of {label} is undefined by some methods and not by others in {counted(count, 'case')}, left out "
            f"of the pairs of the label{mean}"
        )


def _notes(found: Comparison) -> tuple[str, ...]:
    """What a reader must know beside the tables."""
    unused = [run for run in found.runs if not run.used]
    fallen = [run for run in found.runs if run.collapsed]
    known = {method.name for method in found.methods}
    absent = sorted({run.method for run in unused} - known)
    notes = []
    if unused:
        states = ", ".join(f"{run.method} fold {run.fold} seed {run.seed} ({run.status})" for run in unused)
        notes.append(f"{len(unused)} of {len(found.runs)} runs are not used: {states}")
    if absent:
        notes.append(f"without any finished run, and so not compared: {', '.join(absent)}")
    if fallen:
        told = "; ".join(f"{run.method} fold {run.fold} seed {run.seed}: {', '.join(run.collapsed)}" for run in fallen)
        notes.append(f"{len(fallen)} runs collapsed and count like all others: {told}")
    notes += _undefined(found)
    if any(not facts.by_case for facts in found.metrics):
        pooled = ", ".join(facts.name for facts in found.metrics if not facts.by_case)
        notes.append(
            f"{pooled}: no value per case; spreads, intervals and strata are those of the jackknife over groups"
        )
    return tuple(notes)
