"""What came out of a search: for a file, and for the terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from medexp.cli.console import console
from medexp.compare.status import read_run
from medexp.core.record import RunFolder
from medexp.search.trials import Ledger, State, Trial

_SHOWN = 5
_BIASED = (
    "biased: the trials were chosen by the val cases that their results are of, so that the best result is optimistic; "
    "judge the chosen values on cases that the search has not seen (a split with a test part, or other folds)"
)
_UNBIASED = "the trials were chosen by the val cases, and their results are of the test cases"


def summary_of(
    ledger: Ledger, folder: Path, *, metric: str, maximize: bool, about: Mapping[str, Any]
) -> dict[str, Any]:
    """A search as plain values.

    Args:
        ledger: Its trials.
        folder: The study's folder.
        metric: Name of the metric that was searched for.
        maximize: Whether its largest value is the best.
        about: What was searched, and how.

    Returns:
        What search.json holds.
    """
    best = ledger.best()
    return {
        "metric": metric,
        "of": "mean over the validation cases",
        "direction": "maximize" if maximize else "minimize",
        "note": None if best is None else _note(best, folder),
        "search": about["search"],
        "space": about["space"],
        "best": None if best is None else best.number,
        "trials": [asdict(trial) for trial in ledger.trials()],
    }


def _note(trial: Trial, folder: Path) -> str | None:
    """What a reader of a trial's results must know; None where its run is not there any more."""
    state = read_run(RunFolder(folder / str(trial.run)))
    if state is None or state.record is None:
        return None
    return _BIASED if state.record.part == "val" else _UNBIASED


def tell(summary: Mapping[str, Any], folder: Path) -> int:
    """Print the best trials, and what became of the others.

    Args:
        summary: As `summary_of` gives it.
        folder: The study's folder.

    Returns:
        0 if all trials have ended and one is complete, else 1.
    """
    trials = summary["trials"]
    complete = [trial for trial in trials if trial["state"] == State.COMPLETE]
    complete.sort(key=lambda trial: trial["objective"], reverse=summary["direction"] == "maximize")
    table = Table(box=None, pad_edge=False)
    for title in ("trial", summary["metric"], "run"):
        table.add_column(title, overflow="fold", justify="left" if title == "run" else "right")
    for trial in complete[:_SHOWN]:
        table.add_row(str(trial["number"]), f"{trial['objective']:.4f}", Text(str(folder / trial["run"])))
    if complete:
        console().print(table)
    for trial in trials:
        if trial["state"] == State.FAILED:
            print(f"medexp train: trial {trial['number']} failed: {trial['error']}", file=sys.stderr)
    counts = ", ".join(f"{count} {state}" for state, count in Counter(trial["state"] for trial in trials).items())
    print(f"{len(trials)} trials: {counts}; {folder / 'search.json'}")
    if summary["note"]:
        print(summary["note"])
    unfinished = any(trial["state"] == State.OPEN for trial in trials)
    if unfinished:
        print(
            "medexp train: open trials are under way, or were interrupted; the same command goes on with them",
            file=sys.stderr,
        )
    return 1 if unfinished or not complete else 0
