"""Train every experiment of experiments/tour and write the table of what they reached to docs/tour.md.

Run by `make tour`; with `--read` the page is written from the newest runs that are there, and nothing is trained. Floor
and goal of each stand in its header and were written before it was run.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch

import medexp
from medexp.core.hardware import available_cores, cpu_model
from medexp.engine.run import Run

_ROOT = Path(__file__).parents[2]
_EXPERIMENTS = _ROOT / "experiments" / "tour"
_PAGE = _ROOT / "docs" / "tour.md"
_HEADER = """# A tour of the tasks

Made by `make tour`, which trains `experiments/tour/*.yaml` on generated images, one after the other. Floor is what a
predictor reaches that does not look at the image; floor and goal were written into the experiment before it was run.
Scores are those of the held-out fold, on images of which some show no object at all. They say that a task works, and
nothing about patients. Times are those of a machine that other work shared. Where a first budget missed the goal, the
experiment's header says by how much, and that the budget was raised.

{machine}

| Experiment | Metric | Floor | Goal | Reached | Training |
|---|---|---|---|---|---|
"""


def lab_note(path: Path) -> dict[str, str]:
    """The entries of an experiment's header by their first word; a line without one continues the entry before."""
    entries: dict[str, str] = {}
    word = ""
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        found = re.match(r"# (\w+): +(.*)", line)
        if found:
            word = found[1]
            entries[word] = found[2].strip()
        elif word:
            entries[word] += f" {line.lstrip('# ').strip()}"
    return entries


def row(path: Path, run: Run) -> str:
    """The line of one experiment: its first metric, with what the header says beforehand."""
    note = lab_note(path)
    name, by_label = next(iter(run.results.items()))
    reached = ", ".join(
        f"{label} {'undefined' if value is None else f'{value:.3f}'}"
        for label, value in by_label.items()
        if label == "mean" or len(by_label) > 2
    )
    seconds = f"{run.record.seconds['training']:.0f} s, {run.record.threads} threads, {run.record.precision}"
    link = f"[{path.stem}](../experiments/tour/{path.name})"
    return f"| {' | '.join([link, name, note['Floor'], note['Goal'], reached, seconds])} |"


def main() -> None:
    """Train what is not trained yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--read", action="store_true", help="train nothing")
    only_read = parser.parse_args().read
    rows = []
    for path in sorted(_EXPERIMENTS.glob("*.yaml")):
        if not only_read:
            words = [sys.executable, "-m", "medexp.cli.main", "train", str(path), "on_change=new", "tracking=off"]
            subprocess.run(words, check=True, cwd=_ROOT)
        rows.append(row(path, medexp.load_run(_run_of(path))))
    machine = f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {available_cores()} cores, torch {torch.__version__}"
    _PAGE.write_text(_HEADER.format(machine=machine) + "\n".join(rows) + "\n")
    print(_PAGE.read_text())


def _run_of(path: Path) -> Path:
    config = medexp.compose(str(path), ["on_change=new", "tracking=off"])
    folders = (_ROOT / "runs" / config.study).glob("*/run.json")
    return max(folders, key=lambda file: file.stat().st_mtime).parent


if __name__ == "__main__":
    main()
