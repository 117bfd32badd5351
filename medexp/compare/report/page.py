"""A comparison as one HTML file that needs nothing else: verdicts, tables, plots, worst cases, and how it was made."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from medexp.compare import tables
from medexp.compare.comparison import Answer, Comparison, MetricFacts, Ranking
from medexp.compare.figures import draw_critical_difference
from medexp.compare.report import numbers
from medexp.compare.report.worst import WorstCases, pictures, worst_cases
from medexp.compare.runs import PAIRING, STUDY
from medexp.compare.sheets import Sheet
from medexp.compare.words import UNDEFINED, counted, summary, verdict
from medexp.core.files import write_text

_TEMPLATE = "page.html.j2"
_SCRIPTS = ("tables.js", "methods.js", "plots.js", "page.js")
_MOST_SENTENCES = 15
# A diagram takes a third of a second to draw and 20 kB of the page.
_MOST_DIAGRAMS = 12


@dataclass(frozen=True)
class _View:
    """What the page shows of a metric and label.

    Attributes:
        facts: The metric.
        label: The label.
        told: Its verdicts in words.
        worst: Its worst cases.
        diagram: Its critical-difference diagram as SVG; empty where there is none.
    """

    facts: MetricFacts
    label: str
    told: tuple[str, ...]
    worst: WorstCases
    diagram: str


def write_report(found: Comparison, path: Path) -> Path:
    """Write the page of a comparison; the browser is told to load nothing from anywhere.

    It is made from the comparison, and from the overlays that its runs have drawn of their worst cases.

    Args:
        found: The comparison.
        path: The file; one of the same name is replaced.

    Returns:
        The file.
    """
    units = {facts.name: numbers.of_units(found, facts) for facts in found.metrics}
    views = list(_views(found, units))
    drawn, left_out = pictures(found, [shown for view in views for shown in view.worst.shown])
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "sort_keys": False}
    text = environment.get_template(_TEMPLATE).render(
        found=found,
        summary=summary(found),
        first=views[0],
        runs=_runs(found),
        configurations=_configurations(found),
        overrides=_overrides(found),
        data=_data(found, views, units) | {"pictures": drawn},
        left_out=left_out,
        style=_own("style.css"),
        scripts=[_own(name) for name in _SCRIPTS],
        plotly=Markup(get_plotlyjs()),
    )
    write_text(path, text)
    return path


def _own(name: str) -> Markup:
    """A file of this package, as it stands."""
    return Markup(resources.files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _views(found: Comparison, units: dict[str, pd.DataFrame]) -> Iterator[_View]:
    drawn = 0
    for facts in found.metrics:
        for label in facts.labels:
            ranking = _ranking(found, facts, label)
            has_diagram = ranking is not None and math.isfinite(ranking.critical_difference) and drawn < _MOST_DIAGRAMS
            drawn += has_diagram
            yield _View(
                facts=facts,
                label=label,
                told=tuple(_sentences(found, facts, label)),
                worst=worst_cases(units[facts.name], facts, label),
                diagram=_diagram(ranking) if ranking is not None and has_diagram else "",
            )


def _ranking(found: Comparison, facts: MetricFacts, label: str) -> Ranking | None:
    return next((one for one in found.rankings if (one.metric, one.label) == (facts.name, label)), None)


def _diagram(ranking: Ranking) -> str:
    with tempfile.TemporaryDirectory() as folder:
        text = draw_critical_difference(ranking, Path(folder) / "diagram.svg").read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _sentences(found: Comparison, facts: MetricFacts, label: str) -> Iterator[str]:
    """The verdict of each pair in words; where they are many, how often each method is better and worse."""
    own = found.pairs_of(facts.name, label)
    if len(own) <= _MOST_SENTENCES or found.baseline is not None:
        yield from (verdict(pair, facts) for pair in own)
        return
    counts: dict[str, Counter[Answer]] = {method.name: Counter() for method in found.methods}
    opposite = {Answer.BETTER: Answer.WORSE, Answer.WORSE: Answer.BETTER}
    for pair in own:
        counts[pair.first][pair.verdict.answer] += 1
        counts[pair.second][opposite.get(pair.verdict.answer, pair.verdict.answer)] += 1
    told = sum(pair.verdict.answer is not Answer.NOT_SEPARABLE for pair in own)
    yield f"{told} of {counted(len(own), 'pair')} can be told apart"
    for reason in dict.fromkeys(pair.verdict.reason for pair in own if pair.verdict.reason):
        yield f"not separable: {reason}"
    for name, count in sorted(counts.items(), key=lambda one: one[1][Answer.WORSE] - one[1][Answer.BETTER]):
        if count[Answer.BETTER] or count[Answer.WORSE]:
            yield f"{name} is better than {count[Answer.BETTER]} and worse than {count[Answer.WORSE]} of the others"


def _data(found: Comparison, views: list[_View], units: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Everything that follows the filters."""
    places: dict[str, dict[str, int]] = {facts.name: {} for facts in found.metrics}
    shown: dict[str, dict[str, Any]] = {facts.name: {} for facts in found.metrics}
    for view in views:
        name = view.facts.name
        shown[name][view.label] = _shown(found, view) | {
            "units": numbers.units_of_label(units[name], view.label, places[name])
        }
    return {
        "methods": [method.name for method in found.methods],
        "baseline": found.baseline,
        "alpha": found.alpha,
        "metrics": [_metric(found, facts) | {"units": list(places[facts.name])} for facts in found.metrics],
        "views": shown,
        "curves": numbers.curves(found.runs),
    }


def _metric(found: Comparison, facts: MetricFacts) -> dict[str, Any]:
    return {
        "name": facts.name,
        "better": facts.better,
        "unit": facts.unit,
        "labels": facts.labels,
        "by_case": facts.by_case,
        "estimand": facts.estimand,
        "by_label": _plain(tables.labels(found, facts)),
    }


def _shown(found: Comparison, view: _View) -> dict[str, Any]:
    """What the page shows of a metric and label: tables as texts, plots as numbers."""
    facts, label = view.facts, view.label
    parts = [part for part in found.strata if (part.metric, part.label) == (facts.name, label)]
    factors = dict.fromkeys(part.factor for part in parts)
    return {
        "told": view.told,
        "tables": {
            "scores": _plain(tables.scores(found, label)),
            "pairs": _plain(tables.pairs(found, facts, label)),
            "matrix": _plain(tables.matrix(found, facts, label)),
            "ranks": _plain(tables.ranks(found, facts, label)),
        },
        "strata_tables": {factor: _plain(tables.strata(found, facts, label, factor)) for factor in factors},
        "worst": [_plain(sheet) for sheet in view.worst.sheets],
        "diagram": view.diagram,
        "scores": numbers.scores(found, facts, label),
        "pairs": numbers.pairs(found.pairs_of(facts.name, label)),
        "ranks": numbers.ranks(_ranking(found, facts, label)),
        "strata": numbers.strata(parts),
    }


def _plain(sheet: Sheet) -> dict[str, Any]:
    return {"title": sheet.title, "columns": sheet.columns, "rows": sheet.rows, "bold": sorted(sheet.bold)}


def _runs(found: Comparison) -> Sheet:
    """Every run, used or not, by study and name: a page is passed on, and paths tell of the machine."""
    rows = [
        (
            run.method,
            run.fold,
            run.seed,
            run.status,
            f"{run.minutes:.1f}",
            "; ".join(run.collapsed) or UNDEFINED,
            run.problem or UNDEFINED,
            "/".join(run.folder.parts[-2:]),
        )
        for run in found.runs
    ]
    columns = ("method", "fold", "seed", "status", "minutes", "collapsed", "problem", "folder")
    return Sheet("all runs, used or not", columns, tuple(rows))


def _configurations(found: Comparison) -> Sheet:
    rows = [(method.name, line) for method in found.methods for line in method.differences]
    return Sheet(f"from {found.methods[0].name} to each other", ("method", "setting"), tuple(rows))


def _overrides(found: Comparison) -> list[str]:
    """Axes, folds and seeds of each method as they are written on the command line."""
    lines = []
    for method in found.methods:
        own = [run for run in found.runs if run.method == method.name]
        axes = {key: value for key, value in method.axes.items() if key != STUDY and value}
        axes |= {key: ",".join(dict.fromkeys(getattr(run, key) for run in own)) for key in PAIRING}
        lines.append(shlex.join(f"{key}={value}" for key, value in axes.items() if value))
    return lines
