"""Parts of the cases: by their group, or by what a table says of them (size of the object, scanner)."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from medexp.compare.bootstrap import Resampling, interval, within_unit
from medexp.compare.comparison import StratumScore
from medexp.compare.units import Cells
from medexp.core.errors import UsageError

_CASE = "case_id"
_PARTS = 3
_MOST_LEVELS = 12
Factors = Mapping[str, Mapping[str, str]]


def read_factors(file: Path) -> dict[str, dict[str, str]]:
    """What is known of cases: a column of numbers parts them into thirds, another one by its words.

    Args:
        file: CSV with a column "case_id" and a column for each factor; or what `medexp data fingerprint --json` wrote,
            whose factors are volume and number of the objects of each class.

    Returns:
        Level by case id, by factor.

    Raises:
        UsageError: The file cannot be read, has no such column, names a case twice, or a factor has too many levels.
    """
    try:
        table = _fingerprint(file) if file.suffix == ".json" else pd.read_csv(file, dtype={_CASE: str})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--strata {file} cannot be read: {error}") from error
    if _CASE not in table or len(table.columns) < 2:
        raise UsageError(f"--strata {file} needs a column case_id and one for each factor, got {list(table.columns)}")
    twice = table[_CASE][table[_CASE].duplicated()]
    if len(twice):
        raise UsageError(f"--strata {file} names case {twice.iloc[0]} twice; keep one line a case")
    return {
        str(name): _levels(table[name], f"--strata {file}, column {name}").set_axis(table[_CASE]).dropna().to_dict()
        for name in table.columns
        if name != _CASE
    }


def _fingerprint(file: Path) -> pd.DataFrame:
    """Volume and number of objects by case and class; a class that a case has not got has volume 0."""
    lines = [
        {_CASE: case[_CASE]}
        | {f"{label} {what}": value for label, own in case["classes"].items() for what, value in own.items()}
        for case in json.loads(file.read_text())["by_case"]
    ]
    table = pd.DataFrame(lines).fillna(0.0)
    return table[[_CASE, *(name for name in table.columns if name != _CASE and table[name].nunique() > 1)]]


def _levels(column: pd.Series, where: str) -> pd.Series:
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if not numeric or column.nunique() <= _PARTS:
        words = column.map(lambda value: f"{value:g}" if numeric else str(value), na_action="ignore")
        if words.nunique() > _MOST_LEVELS:
            raise UsageError(f"{where} has {words.nunique()} levels, {_MOST_LEVELS} at most; give fewer, or numbers")
        return words
    edges = np.unique(np.nanquantile(column, np.linspace(0, 1, _PARTS + 1)))
    names = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(edges)]
    place = np.clip(np.searchsorted(edges, column, side="left") - 1, 0, len(names) - 1)
    return pd.Series([None if math.isnan(v) else names[p] for v, p in zip(column, place, strict=True)], dtype=object)


def with_groups(factors: Factors, group_of_case: Mapping[str, str]) -> Factors:
    """The factors, and the group as one where there are few groups of several cases (centres, scanners).

    Args:
        factors: Level by case id, by factor.
        group_of_case: Group by case id.

    Returns:
        The factors.
    """
    groups = set(group_of_case.values())
    few = 2 <= len(groups) <= _MOST_LEVELS and len(group_of_case) >= 2 * len(groups)
    return {**({"group": group_of_case} if few else {}), **factors}


def parts(factors: Factors) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Factor, level and ids of the cases of each part; levels in the order of their numbers.

    Args:
        factors: Level by case id, by factor.

    Yields:
        A part.
    """
    for factor, level_of in factors.items():
        for level in sorted(set(level_of.values()), key=_by_number):
            yield factor, level, frozenset(case for case, own in level_of.items() if own == level)


def _by_number(level: str) -> tuple[float, str]:
    try:
        return float(level.split(" ")[0]), level
    except ValueError:
        return math.inf, level


def stratum_scores(part: Cells, names: Sequence[str], *, unit: str, resamples: int, seed: int) -> list[StratumScore]:
    """Each method within a part of the cases.

    Args:
        part: Values of its cases (of its groups where the metric has no value per case).
        names: Factor, level, metric and label.
        unit: Unit of the values.
        resamples: Of the bootstrap.
        seed: What it is drawn with.

    Returns:
        A score by method.
    """
    if not part.units:
        return []
    factor, level, metric, label = names
    present = np.isfinite(part.values)
    means = Resampling.of(part, resamples=resamples, seed=seed).means(list(part.values))
    low, high = within_unit(interval(means), unit)
    found = []
    for place, method in enumerate(part.methods):
        counts = present[place].sum(axis=1)
        used = counts > 0
        of_units = np.where(present[place], part.values[place], 0.0).sum(axis=1)[used] / counts[used]
        one_group = len(np.unique(part.group_of[used])) < 2
        found.append(
            StratumScore(
                factor=factor,
                level=level,
                metric=metric,
                label=label,
                method=method,
                value=float(of_units.mean()) if len(of_units) else math.nan,
                low=math.nan if one_group else float(low[place]),
                high=math.nan if one_group else float(high[place]),
                n_cases=int(used.sum()),
            )
        )
    return found
