"""`medexp status STUDY`: the runs of a study."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from medexp.cli.console import console
from medexp.compare.status import QUEUED, RUNNING, RunState, count_by_status, read_study, study_folder
from medexp.engine.pace import format_duration

_EVERY_S = 2.0


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
    parser.add_argument("--watch", action="store_true", help="keep looking until no job runs or is queued")
    arguments = parser.parse_args(list(words))
    folder = study_folder(arguments.study, arguments.runs)
    if arguments.watch:
        _watch(folder)
    states = list(read_study(folder))
    if arguments.json:
        print(json.dumps([_as_json(state) for state in states], indent=2))
        return 0
    if states and not arguments.watch:
        console().print(status_table(states))
    print(count_by_status(states) or "no runs")
    return 0


def _watch(folder: Path) -> None:
    """Show the runs until nothing is under way; on what is no terminal, only at the end."""
    with Live(console=console(), auto_refresh=False) as live:
        while True:
            states = list(read_study(folder))
            live.update(status_table(states), refresh=True)
            if not any(state.status in (QUEUED, RUNNING) for state in states):
                return
            time.sleep(_EVERY_S)


def _as_json(state: RunState) -> dict[str, Any]:
    """The record, where there is one, with the state as it is seen from here."""
    record = {} if state.record is None else asdict(state.record)
    return {"folder": str(state.folder.path), **record, "status": state.status, "error": state.reason or None}


def status_table(states: Sequence[RunState]) -> Table:
    """A line for each run: state, how far it is, score, time, and why it did not finish."""
    table = Table(box=None, pad_edge=False)
    for title in ("run", "status", "at", "score", "minutes", "left", "reason"):
        right = title in ("minutes", "left")
        table.add_column(title, overflow="fold", justify="right" if right else "left")
    for state in states:
        left = "" if state.left_s is None else format_duration(state.left_s)
        cells = (state.status, state.place, state.score, f"{state.minutes:.1f}", left)
        table.add_row(Text(state.name), *cells, Text(state.reason))
    return table


def with_counts(states: Sequence[RunState]) -> Group:
    """The table with a line below that counts the states."""
    return Group(status_table(states), Text(count_by_status(states)))
