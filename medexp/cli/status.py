"""`medexp status STUDY`: the runs of a study."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medexp.compare.status import RunState, count_by_status, read_study, study_folder


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
        print(json.dumps([{"folder": str(state.folder.path), **asdict(state.record)} for state in states], indent=2))
        return 0
    Console().print(_table(states))
    print(count_by_status(states) or "no runs")
    return 0


def _table(states: Sequence[RunState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("run", "status", "score", "minutes", "reason"):
        table.add_column(title, overflow="fold", justify="right" if title == "minutes" else "left")
    for state in states:
        minutes = sum(state.record.seconds.values()) / 60
        table.add_row(
            Text(state.name), state.record.status.value, state.score, f"{minutes:.1f}", Text(state.record.error or "")
        )
    return table
