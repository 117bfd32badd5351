"""Tables of a comparison, as sheets and as frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from string import ascii_lowercase

import pandas as pd

from medexp.compare.comparison import Answer, Comparison, MetricFacts, Pair, Ranking, Score, StratumScore
from medexp.compare.sheets import Sheet
from medexp.compare.words import UNDEFINED, interval, number, p_value

_SIGNS = {Answer.BETTER: "better", Answer.WORSE: "worse", Answer.NOT_SEPARABLE: "·"}


def scores(found: Comparison, label: str = "mean") -> Sheet:
    """Methods by metrics, side by side: value and interval, best one bold, and the spread between trainings.

    Args:
        found: The comparison.
        label: Class or region, or "mean".

    Returns:
        The sheet.
    """
    metrics = [facts for facts in found.metrics if label in facts.labels]
    by_key = {(score.metric, score.method): score for score in found.scores if score.label == label}
    rows, bold = [], set()
    for place, method in enumerate(found.methods):
        cells = [method.name]
        for facts in metrics:
            score = by_key.get((facts.name, method.name))
            cells += [UNDEFINED, UNDEFINED] if score is None else _score_cells(score, facts)
        rows.append(tuple(cells))
        bold |= {(place, 1 + 2 * at) for at, facts in enumerate(metrics) if method.name == _best(by_key, facts)}
    columns = [name for facts in metrics for name in (_heading(facts), "SD of trainings")]
    return Sheet(f"{label}: value (95 % bootstrap)", ("method", *columns), tuple(rows), frozenset(bold))


def _score_cells(score: Score, facts: MetricFacts) -> list[str]:
    shown = f"{number(score.value, facts.unit)} ({interval(score.low, score.high, facts.unit)})"
    return [shown, number(score.training_sd, facts.unit)]


def _heading(facts: MetricFacts) -> str:
    arrow = {"higher": "↑", "lower": "↓"}.get(facts.better, "")
    unit = "" if facts.unit in ("fraction", "") else f" [{facts.unit}]"
    return f"{facts.name}{unit} {arrow}".rstrip()


def _best(by_key: Mapping[tuple[str, str], Score], facts: MetricFacts) -> str | None:
    """The method with the best value, as far as it is defined and the metric has a direction."""
    sign = {"higher": 1.0, "lower": -1.0}.get(facts.better, math.nan)
    ranked = [(sign * score.value, method) for (name, method), score in by_key.items() if name == facts.name]
    defined = [one for one in ranked if math.isfinite(one[0])]
    return max(defined, key=lambda one: one[0])[1] if defined else None


def labels(found: Comparison, facts: MetricFacts) -> Sheet:
    """Methods by the labels of a metric.

    Args:
        found: The comparison.
        facts: The metric.

    Returns:
        The sheet.
    """
    by_key = {(score.method, score.label): score.value for score in found.scores if score.metric == facts.name}
    rows = [
        (method.name, *(number(by_key.get((method.name, label), math.nan), facts.unit) for label in facts.labels))
        for method in found.methods
    ]
    return Sheet(f"{_heading(facts)} by label", ("method", *facts.labels), tuple(rows))


def pairs(found: Comparison, facts: MetricFacts, label: str) -> Sheet:
    """What is decided of each pair, then what describes it.

    Args:
        found: The comparison.
        facts: The metric.
        label: Class or region, or "mean".

    Returns:
        The sheet.
    """
    columns = (
        "pair",
        "verdict",
        "difference",
        "95 %",
        "p (Holm)",
        "could have shown",
        "bootstrap 95 %",
        "Wilcoxon (Holm)",
        "permutation (Holm)",
        "effect size",
        "wins/ties/losses",
        "SD of cases",
        "SD of trainings",
    )
    rows = tuple(_pair_row(pair, facts) for pair in found.pairs_of(facts.name, label))
    return Sheet(f"{_heading(facts)}, {label}: first minus second", columns, rows)


def _pair_row(pair: Pair, facts: MetricFacts) -> tuple[str, ...]:
    decided, beside, unit = pair.verdict, pair.description, facts.unit
    counts = (beside.wins, beside.ties, beside.losses)
    return (
        f"{pair.first} - {pair.second}",
        str(decided.answer),
        number(decided.difference, unit, sign=True),
        interval(decided.low, decided.high, unit, sign=True),
        p_value(decided.p_holm),
        number(decided.smallest_difference, unit),
        interval(beside.low, beside.high, unit, sign=True),
        p_value(beside.wilcoxon_p_holm),
        p_value(beside.permutation_p_holm),
        number(beside.effect_size, sign=True) if math.isfinite(beside.effect_size) else UNDEFINED,
        "/".join(map(str, counts)) if facts.by_case else UNDEFINED,
        number(pair.case_sd, unit),
        number(pair.training_sd, unit),
    )


def matrix(found: Comparison, facts: MetricFacts, label: str) -> Sheet:
    """For each method whether it is better or worse than each other.

    Args:
        found: The comparison.
        facts: The metric.
        label: Class or region, or "mean".

    Returns:
        The sheet; a dot where two are not separable, nothing where they were not compared.
    """
    opposite = {Answer.BETTER: Answer.WORSE, Answer.WORSE: Answer.BETTER}
    known: dict[tuple[str, str], Answer] = {}
    for pair in found.pairs_of(facts.name, label):
        answer = pair.verdict.answer
        known[(pair.first, pair.second)] = answer
        known[(pair.second, pair.first)] = opposite.get(answer, answer)
    names = [method.name for method in found.methods]
    rows = [
        (name, *(_SIGNS[known[(name, other)]] if (name, other) in known else "" for other in names)) for name in names
    ]
    return Sheet(f"{_heading(facts)}, {label}: row against column", ("", *names), tuple(rows))


def ranks(found: Comparison, facts: MetricFacts, label: str) -> Sheet:
    """The methods in their order, and how firm it is.

    Args:
        found: The comparison.
        facts: The metric.
        label: Class or region, or "mean".

    Returns:
        The sheet, without rows where there is no ranking.
    """
    columns = (
        "method",
        "rank",
        "mean",
        "chance of rank 1",
        "chance of rank 1 to 3",
        "mean rank within cases",
        "joined",
    )
    title = f"{_heading(facts)}, {label}: ranks"
    own = [one for one in found.rankings if (one.metric, one.label) == (facts.name, label)]
    if not own:
        return Sheet(f"{title} cannot be given", columns, ())
    distance = own[0].critical_difference
    title += f", Kendall's tau of resamples {own[0].tau:.2f}"
    if math.isfinite(distance):
        title += f"; mean ranks that share a letter differ by less than {distance:.2f} (Nemenyi)"
    return Sheet(title, columns, tuple(_rank_rows(own[0], facts)))


def _rank_rows(ranking: Ranking, facts: MetricFacts) -> Iterator[tuple[str, ...]]:
    for place, name in enumerate(ranking.methods):
        chances = ranking.chances[place]
        yield (
            name,
            str(place + 1),
            number(ranking.means[place], facts.unit),
            f"{chances[0]:.2f}",
            f"{sum(chances[:3]):.2f}",
            number(ranking.mean_ranks[place]),
            _letters(name, ranking.cliques),
        )


def _letters(method: str, cliques: Sequence[Sequence[str]]) -> str:
    """A letter for each clique that a method is in."""
    return "".join(letter for letter, clique in zip(ascii_lowercase, cliques, strict=False) if method in clique)


def strata(found: Comparison, facts: MetricFacts, label: str, factor: str) -> Sheet:
    """Methods by the parts of a factor.

    Args:
        found: The comparison.
        facts: The metric.
        label: Class or region, or "mean".
        factor: What the cases are parted by.

    Returns:
        The sheet.
    """
    own = [part for part in found.strata if (part.metric, part.label, part.factor) == (facts.name, label, factor)]
    levels = list(dict.fromkeys(part.level for part in own))
    by_key = {(part.method, part.level): part for part in own}
    counts = {part.level: max(other.n_cases for other in own if other.level == part.level) for part in own}
    rows = [
        (method.name, *(_stratum_cell(by_key.get((method.name, level)), facts) for level in levels))
        for method in found.methods
    ]
    columns = ("method", *(f"{level} (n = {counts[level]})" for level in levels))
    return Sheet(f"{_heading(facts)}, {label}, by {factor}", columns, tuple(rows))


def _stratum_cell(part: StratumScore | None, facts: MetricFacts) -> str:
    if part is None:
        return UNDEFINED
    return f"{number(part.value, facts.unit)} ({interval(part.low, part.high, facts.unit)})"


def runs(found: Comparison) -> Sheet:
    """The runs that did not finish, and those that collapsed.

    Args:
        found: The comparison.

    Returns:
        The sheet, without rows where all is well.
    """
    rows = [
        (run.method, run.fold, run.seed, run.status, "; ".join(filter(None, (run.problem, *run.collapsed))))
        for run in found.runs
        if not run.used or run.collapsed
    ]
    return Sheet("runs that did not finish or collapsed", ("method", "fold", "seed", "status", "what"), tuple(rows))


def scores_frame(found: Comparison) -> pd.DataFrame:
    """A line for each metric, label and method."""
    lines = [
        {item.name: getattr(score, item.name) for item in fields(score) if item.name != "by_run"}
        | {f"fold {fold} seed {seed}": value for (fold, seed), value in score.by_run.items()}
        for score in found.scores
    ]
    return pd.DataFrame(lines)


def pairs_frame(found: Comparison) -> pd.DataFrame:
    """A line for each metric, label and pair, the ends of the bootstrap's interval as bootstrap_low and _high."""
    lines = []
    for pair in found.pairs:
        line = {
            item.name: getattr(pair, item.name) for item in fields(pair) if item.name not in ("verdict", "description")
        }
        decided = {item.name: getattr(pair.verdict, item.name) for item in fields(pair.verdict)}
        beside = {item.name: getattr(pair.description, item.name) for item in fields(pair.description)}
        beside = {f"bootstrap_{name}" if name in ("low", "high") else name: value for name, value in beside.items()}
        lines.append({**line, **decided, "answer": str(pair.verdict.answer), **beside})
    return pd.DataFrame(lines)
