"""`medexp status STUDY`: the runs of a study."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medexp.compare.status import RunState, count_by_status, read_study, study_folder

_PIPE_WIDTH = 10_000


def status_command(words: Sequence[str]) -> int:
    """Print the runs of a study.

    Args:
        words: Words after `medexp status`.

    Returns:
        0.
    """
    parser = argparse.ArgumentParser(prog="medexp status", description="List the runs of a study.")
    parser.add_argument("study", help="name of a study, or its folder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all studies (default: runs)")
    parser.add_argument("--json", action="store_true", help="print the records as JSON")
    arguments = parser.parse_args(list(words))
    states = list(read_study(study_folder(arguments.study, arguments.runs)))
    if arguments.json:
        print(json.dumps([_as_json(state) for state in states], indent=2))
        return 0
    if states:
        # A line per run where the output is read by a program.
        Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(_table(states))
    print(count_by_status(states) or "no runs")
    return 0


def _as_json(state: RunState) -> dict[str, Any]:
    record = {"status": state.status, "error": state.problem} if state.record is None else asdict(state.record)
    return {"folder": str(state.folder.path), **record}


def _table(states: Sequence[RunState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("run", "status", "score", "minutes", "reason"):
        table.add_column(title, overflow="fold", justify="right" if title == "minutes" else "left")
    for state in states:
        table.add_row(Text(state.name), state.status, state.score, f"{state.minutes:.1f}", Text(state.reason))
    return table
