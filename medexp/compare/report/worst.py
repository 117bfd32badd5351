"""The cases that a reader looks at first: methods differ most there, or all of them do badly; with pictures of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.compare.comparison import Comparison, MetricFacts, Run
from medexp.compare.report.numbers import short
from medexp.compare.sheets import Sheet
from medexp.compare.words import UNDEFINED, number
from medexp.core.files import safe_name
from medexp.core.record import RunFolder

_MOST_CASES = 8
_MOST_BYTES = 8_000_000
# As runs and `medexp show` name them, the one that hides least of the image first.
_ENDINGS = tuple(f"_{style}.{kind}" for style in ("contour", "fill") for kind in ("png", "svg"))
_MIME = {".png": "image/png", ".svg": "image/svg+xml"}
COLUMNS = ("case", "mean of methods", "difference", "worst method", "its value", "best method", "its value")


@dataclass(frozen=True)
class WorstCases:
    """The worst cases of a metric and label.

    Attributes:
        sheets: Where methods differ most, and where their mean is worst.
        shown: Case, worst and best method of each line.
    """

    sheets: tuple[Sheet, ...]
    shown: tuple[tuple[str, str, str], ...]


def worst_cases(table: pd.DataFrame, facts: MetricFacts, label: str) -> WorstCases:
    """The cases of a label where methods differ most, and those with the worst mean over the methods.

    Args:
        table: Value of each method, averaged over trainings, by label and case.
        facts: The metric; one without values per case has no worst cases.
        label: Class or region, or "mean".

    Returns:
        The cases; none where the metric has no direction.
    """
    sign = {"higher": 1.0, "lower": -1.0}.get(facts.better, math.nan)
    if not facts.by_case or math.isnan(sign) or label not in table.index.get_level_values("label"):
        return WorstCases((), ())
    own = table.loc[label]
    own = own[own.notna().sum(axis=1) >= 2]
    chosen = {
        "where methods differ most": (own.max(axis=1) - own.min(axis=1)).sort_values(ascending=False, kind="stable"),
        "with the worst mean": (sign * own.mean(axis=1)).sort_values(kind="stable"),
    }
    sheets, shown = [], []
    for title, order in chosen.items():
        lines = [_line(str(case), own.loc[case], sign) for case in order.index[:_MOST_CASES]]
        sheets.append(Sheet(f"Cases {title}", COLUMNS, tuple(_texts(line, facts.unit) for line in lines)))
        shown += [(case, low, high) for case, _, low, high in lines]
    return WorstCases(tuple(sheets), tuple(dict.fromkeys(shown)))


def _line(case: str, values: pd.Series, sign: float) -> tuple[str, pd.Series, str, str]:
    """A case, its values, its worst and its best method."""
    signed = (sign * values).dropna()
    return case, values, str(signed.idxmin()), str(signed.idxmax())


def _texts(line: tuple[str, pd.Series, str, str], unit: str) -> tuple[str, ...]:
    case, values, low, high = line
    spread = number(float(values.max() - values.min()), unit)
    ends = [low, number(values[low], unit), high, number(values[high], unit)]
    return (case, number(float(values.mean()), unit), spread, *ends) if len(values) else (case, *[UNDEFINED] * 6)


def pictures(found: Comparison, wanted: Iterable[tuple[str, str, str]]) -> tuple[list[dict[str, Any]], int]:
    """What runs have drawn of cases, as far as a page should carry it.

    Args:
        found: The comparison; its runs' folders are searched.
        wanted: Case and two methods, those that matter most first.

    Returns:
        A picture for each case and method that has one (case, method, fold, seed, data URI, and the case's values in
        that run by metric and label), and how many were left out since the page would become too large.
    """
    drawn: list[dict[str, Any]] = []
    used, left_out = 0, 0
    methods_of: dict[str, dict[str, None]] = {}
    for case, *methods in wanted:
        methods_of.setdefault(case, {}).update(dict.fromkeys(methods))
    for case, own in methods_of.items():
        for run, file in _files(found.runs, case, tuple(own)):
            size = file.stat().st_size
            if used + size > _MOST_BYTES:
                left_out += 1
                continue
            used += size
            named = {"case": case, "method": run.method, "fold": run.fold, "seed": run.seed}
            drawn.append({**named, "uri": _uri(file), "values": _values(found.values, run, case)})
    return drawn, left_out


def _files(runs: Sequence[Run], case: str, methods: Sequence[str]) -> Iterator[tuple[Run, Path]]:
    """The first picture of a case by each method, in the order of the methods' runs."""
    for method in methods:
        candidates = (
            (run, folder / f"{safe_name(case)}{ending}")
            for run in runs
            if run.method == method and run.used
            for folder in (RunFolder(run.folder).overlays, run.folder / "shown")
            for ending in _ENDINGS
        )
        first = next(((run, file) for run, file in candidates if file.is_file()), None)
        if first is not None:
            yield first


def _values(values: pd.DataFrame, run: Run, case: str) -> dict[str, dict[str, float | None]]:
    own = values[
        (values["case_id"] == case)
        & (values["method"] == run.method)
        & (values["fold"] == run.fold)
        & (values["seed"] == run.seed)
    ]
    by_metric: dict[str, dict[str, float | None]] = {}
    for metric, label, value in own[["metric", "label", "value"]].itertuples(index=False):
        by_metric.setdefault(metric, {})[label] = short(value)
    return by_metric


def _uri(file: Path) -> str:
    return f"data:{_MIME[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
