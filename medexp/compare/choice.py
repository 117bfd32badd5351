"""Choosing what was searched for (a learning rate) by validation scores: each method is compared at its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from medexp.compare.comparison import Finding, Level
from medexp.compare.runs import RecordedRun, method_name
from medexp.core.errors import UsageError

_TEST = "test"


@dataclass(frozen=True)
class Tuned:
    """What was chosen.

    Attributes:
        runs: The runs of the chosen values, and those that have not finished.
        notes: What was chosen for each method, among how many runs.
        findings: What is not fair about it.
    """

    runs: list[RecordedRun]
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]


def choose(runs: Sequence[RecordedRun], axis: str, *, by: Sequence[str], metric: str | None) -> Tuned:
    """Keep of each method the runs with the value of an axis whose last validations are best on average.

    Args:
        runs: Runs of all methods and values.
        axis: What was searched for, e.g. "optimizer.lr".
        by: Axes whose values make a method.
        metric: Name of the metric that chooses; None for the first that the runs recorded.

    Returns:
        What was chosen.

    Raises:
        UsageError: The runs do not differ in the axis, or one has no validation score.
    """
    done = [run for run in runs if run.finished]
    if len({run.value(axis) for run in done}) < 2:
        raise UsageError(f"--choose {axis}: the finished runs do not differ in it; name what was searched for")
    scores: dict[str, dict[str, list[float]]] = {}
    for run in done:
        score = _validated(run, metric or next(iter(run.record.metrics)))
        scores.setdefault(method_name(run, by), {}).setdefault(run.value(axis), []).append(score)
    higher = _is_higher_better(done[0], metric)
    best = {method: _best(own, higher=higher) for method, own in scores.items()}
    kept = [run for run in runs if not run.finished or run.value(axis) == best[method_name(run, by)]]
    notes = tuple(_told(method, axis, best[method], own) for method, own in scores.items())
    return Tuned(kept, notes, tuple(_findings(done, scores, axis)))


def _best(scores: Mapping[str, Sequence[float]], *, higher: bool) -> str:
    means = {value: fmean(of_value) for value, of_value in scores.items()}
    return (max if higher else min)(means, key=lambda value: means[value])


def _validated(run: RecordedRun, metric: str) -> float:
    """The mean of a metric at the last validation of a training."""
    history, column = run.history(), f"val/{metric}/mean"
    values = history[column].dropna() if column in history else history.get(column, ())
    if len(values) == 0:
        raise UsageError(
            f"--choose: {run.path} has no validation score of {metric}; train with trainer.validate_every_epochs"
        )
    return float(values.iloc[-1])


def _is_higher_better(run: RecordedRun, metric: str | None) -> bool:
    definitions = run.record.metrics
    return bool(definitions[metric or next(iter(definitions))].get("better") == "higher")


def _told(method: str, axis: str, value: str, own: Mapping[str, list[float]]) -> str:
    tried = ", ".join(f"{other} {fmean(scores):.4g}" for other, scores in own.items())
    count = sum(map(len, own.values()))
    return f"{method}: {axis}={value} was chosen by validation scores among {count} runs ({tried})"


def _findings(done: Sequence[RecordedRun], scores: Mapping[str, Mapping[str, list[float]]], axis: str) -> list[Finding]:
    found = []
    reported = [run.path.name for run in done if run.record.part != _TEST]
    if reported:
        text = (
            f"{axis} was chosen on the validation cases that results are reported on, by {len(reported)} runs, which "
            "flatters the method with more values; hold a test part out (dataset/split=holdout dataset.split.test=0.2)"
        )
        found.append(Finding(Level.WARNING, "choice", text))
    budgets = {method: sum(map(len, own.values())) for method, own in scores.items()}
    if len(set(budgets.values())) > 1:
        told = ", ".join(f"{method} {count}" for method, count in budgets.items())
        found.append(Finding(Level.ERROR, "search", f"{axis} was searched with unequal budgets (runs: {told})"))
    return found
