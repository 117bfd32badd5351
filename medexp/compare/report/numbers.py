"""The numbers that a report's plots are drawn from, as plain values; short, since a page carries them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medexp.compare.comparison import Comparison, MetricFacts, Pair, Ranking, Run, StratumScore

# Points of a plot of all learning curves of one quantity; a curve is thinned where runs are many and long.
_MOST_POINTS = 20_000
_FEWEST_POINTS = 20
_NO_CURVES = ("epoch", "step")


def short(value: float) -> float | None:
    """A number with five digits, which no plot shows better; None where it is undefined.

    >>> short(0.123456789), short(float("nan"))
    (0.12346, None)
    """
    return float(f"{value:.5g}") if math.isfinite(value) else None


def scores(found: Comparison, facts: MetricFacts, label: str) -> list[dict[str, Any]]:
    """What is drawn of each method: value, interval, spreads, and the value of each training."""
    return [
        {
            "method": score.method,
            "value": short(score.value),
            "low": short(score.low),
            "high": short(score.high),
            "training_sd": short(score.training_sd),
            "case_sd": short(score.case_sd),
            "by_run": [[fold, seed, short(value)] for (fold, seed), value in score.by_run.items()],
        }
        for score in found.scores_of(facts.name, label)
    ]


def pairs(own: Iterable[Pair]) -> list[dict[str, Any]]:
    """What is drawn of each pair."""
    return [
        {
            "first": pair.first,
            "second": pair.second,
            "answer": str(pair.verdict.answer),
            "difference": short(pair.verdict.difference),
            "low": short(pair.verdict.low),
            "high": short(pair.verdict.high),
            "p": short(pair.verdict.p_holm),
            "reason": pair.verdict.reason,
        }
        for pair in own
    ]


def ranks(ranking: Ranking | None) -> dict[str, Any] | None:
    """Methods in their order with their chances of each rank; None where there is no ranking."""
    if ranking is None:
        return None
    return {
        "methods": ranking.methods,
        "chances": [[short(chance) for chance in own] for own in ranking.chances],
        "friedman_p": short(ranking.friedman_p),
    }


def strata(own: Iterable[StratumScore]) -> dict[str, list[list[Any]]]:
    """By factor: level, method, value, ends of its interval, number of cases."""
    found: dict[str, list[list[Any]]] = {}
    for part in own:
        line = [part.level, part.method, short(part.value), short(part.low), short(part.high), part.n_cases]
        found.setdefault(part.factor, []).append(line)
    return found


def of_units(found: Comparison, facts: MetricFacts) -> pd.DataFrame:
    """Values of a metric averaged over trainings: a line for each label and case (group where it is not by case).

    Args:
        found: The comparison.
        facts: The metric.

    Returns:
        Indexed by label and unit, a column for each method; nan where there is no value.
    """
    own = found.values[found.values["metric"] == facts.name]
    unit = own["case_id"] if facts.by_case else own["group"]
    means = own.assign(unit=unit).groupby(["label", "unit", "method"], sort=True)["value"].mean()
    return means.unstack("method").reindex(columns=[method.name for method in found.methods])


def units_of_label(table: pd.DataFrame, label: str, places: dict[str, int]) -> dict[str, Any]:
    """The values of a label, and where their names stand in the list of all names.

    Args:
        table: As `of_units` gives it.
        label: Class or region, or "mean".
        places: Place by name; names that are new are added.

    Returns:
        "units", and "values": a list for each method.
    """
    own = table.loc[label] if label in table.index.get_level_values("label") else table.iloc[:0]
    names = own.index.tolist()
    return {
        "units": [places.setdefault(str(name), len(places)) for name in names],
        "values": [[short(value) for value in own[method].tolist()] for method in own.columns],
    }


def curves(runs: Sequence[Run]) -> dict[str, list[list[Any]]]:
    """Learning curves by quantity, the rate last: method, fold, seed, steps and values of each run that has any."""
    named = dict.fromkeys(name for run in runs for name in run.history.columns if name not in _NO_CURVES)
    columns = sorted(named, key=lambda name: name == "lr")
    most = max(_FEWEST_POINTS, _MOST_POINTS // max(1, len(runs)))
    found = {column: list(_curves(runs, column, most)) for column in columns}
    return {column: lines for column, lines in found.items() if lines}


def _curves(runs: Sequence[Run], column: str, most: int) -> Iterator[list[Any]]:
    for run in runs:
        if column not in run.history or "step" not in run.history:
            continue
        steps, values = (pd.to_numeric(run.history[name], errors="coerce").to_numpy(float) for name in ("step", column))
        defined = np.flatnonzero(np.isfinite(values) & np.isfinite(steps))
        if not len(defined):
            continue
        kept = defined[np.unique(np.linspace(0, len(defined) - 1, min(most, len(defined))).round().astype(int))]
        yield [run.method, run.fold, run.seed, steps[kept].astype(int).tolist(), [short(v) for v in values[kept]]]
