"""`medexp data list`: the named datasets, and whether they are on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medexp.data.catalogue.catalogue import TASKS, Card, cards, data_home

_PIPE_WIDTH = 10_000
_UNITS = ("B", "kB", "MB", "GB")
_EPILOG = """A dataset is used by its name, e.g. `medexp train dataset=bccd task=detection/retinanet`, fetched with
`medexp data fetch NAME`, and looked for below MEDEXP_DATA or, unless that is set, the user's data folder."""


def data_list(words: Sequence[str]) -> int:
    """Print the named datasets.

    Args:
        words: Words after `medexp data list`.

    Returns:
        0.
    """
    arguments = _parser().parse_args(list(words))
    home = data_home()
    found = [card for card in cards() if arguments.task in (None, *card.tasks)]
    if arguments.here:
        found = [card for card in found if _is_here(card, home)]
    if arguments.json:
        print(json.dumps({"home": str(home), "datasets": [_plain(card, home) for card in found]}, indent=2))
    else:
        console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        console.print(_table(found, home))
        print(f"\nlooked for in {home}; (nc): for non-commercial use only, or unclear; ~: not counted by medexp")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp data list",
        description="List the named datasets: task, size, licence, and whether they are on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--task", choices=TASKS, help="only those that serve a task")
    parser.add_argument("--here", action="store_true", help="only those that are on this machine")
    return parser


def _is_here(card: Card, home: Path) -> bool:
    if card.package is not None:
        return find_spec(card.package) is not None
    return not card.missing(home)


def _where(card: Card, home: Path) -> str:
    if card.package is not None:
        return f"in the package {card.package}" if _is_here(card, home) else f"pip install {card.package}"
    place = card.place(home)
    if place is None:
        return "drawn when it is used"
    if _is_here(card, home):
        return str(place)
    return "no; by hand" if card.manual else "no"


def _table(found: Sequence[Card], home: Path) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("name", "tasks", "dims", "cases", "size", "licence", "here"):
        justify: Any = "right" if title in ("cases", "size") else "left"
        table.add_column(title, justify=justify, overflow="fold")
    for card in found:
        table.add_row(
            card.name,
            ", ".join(card.tasks),
            f"{card.spatial_dims}D",
            f"{'' if card.counts.verified else '~'}{card.counts.total:,}",
            "" if card.size_bytes is None else size_text(card.size_bytes),
            f"{card.licence}{' (nc)' if card.non_commercial else ''}",
            _where(card, home),
        )
    return table


def size_text(size_bytes: int) -> str:
    """A number of bytes in a unit that suits it.

    >>> size_text(205_615_438)
    '206 MB'
    """
    size, unit = float(size_bytes), _UNITS[0]
    for unit in _UNITS:
        if size < 999.5 or unit == _UNITS[-1]:
            break
        size /= 1000
    return f"{size:.3g} {unit}"


def _plain(card: Card, home: Path) -> dict[str, Any]:
    place = card.place(home)
    return {
        "name": card.name,
        "title": card.title,
        "tasks": list(card.tasks),
        "spatial_dims": card.spatial_dims,
        "cases": dict(card.counts.cases),
        "further_counts": dict(card.counts.further),
        "verified": card.counts.verified,
        "size_bytes": card.size_bytes,
        "licence": card.licence,
        "non_commercial": card.non_commercial,
        "citation": str(card.citation),
        "homepage": card.homepage,
        "channels": list(card.channels),
        "classes": {str(number): name for number, name in card.classes.items()},
        "fetch": "files" if card.files else "by hand" if card.manual else None,
        "here": _is_here(card, home),
        "path": None if place is None else str(place),
    }
