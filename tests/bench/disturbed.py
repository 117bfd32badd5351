"""A study whose jobs and sweep are killed, beside the same study left alone: what is done twice, lost or different.

Run by `make disturbed`, with MEDEXP_DATA the folder that holds msd_task04_hippocampus. Two jobs get SIGKILL, the sweep
gets Ctrl-C, and the command is given again.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from medexp.core.record import RunFolder, Status

_EXPERIMENT = Path(__file__).parents[2] / "experiments" / "hippocampus" / "losses.yaml"
_STUDY = "hippocampus-losses"
_PATIENCE_S = 1200.0


def command(runs: Path, words: list[str]) -> list[str]:
    """The study's command."""
    medexp = [sys.executable, "-m", "medexp.cli.main", "train", "-m", str(_EXPERIMENT)]
    return [*medexp, f"paths.runs={runs}", "tracking=off", *words]


def folders(runs: Path) -> list[RunFolder]:
    """The runs that have begun."""
    return [RunFolder(file.parent) for file in sorted((runs / _STUDY).glob("*/run.json"))]


def running(runs: Path, *, steps: int) -> Iterator[tuple[RunFolder, int]]:
    """Runs that are under way with so many steps, and their processes."""
    for folder in folders(runs):
        if folder.progress.exists() and folder.is_locked():
            progress = json.loads(folder.progress.read_text())
            if progress.get("step", 0) >= steps:
                yield folder, progress["process"]


def wait(condition: Callable[[], bool]) -> None:
    """Wait for something that must come."""
    until = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("what was waited for did not come")
        time.sleep(0.1)


def disturb(runs: Path, words: list[str]) -> None:
    """Start the study, kill two of its jobs and then the sweep."""
    sweep = subprocess.Popen(command(runs, words))
    killed: list[RunFolder] = []

    def kill_another() -> bool:
        for folder, process in running(runs, steps=20):
            if folder.path not in [each.path for each in killed]:
                os.kill(process, signal.SIGKILL)
                killed.append(folder)
                print(f"killed {folder.path.name}", flush=True)
                return len(killed) == 2
        return False

    wait(kill_another)
    gone = [each.path for each in killed]
    wait(lambda: any(folder.path not in gone for folder, _ in running(runs, steps=20)))
    sweep.send_signal(signal.SIGINT)
    print(f"Ctrl-C; the sweep ended with {sweep.wait()}", flush=True)


def differences(undisturbed: Path, disturbed: Path) -> list[str]:
    """What is not alike in two folders of the study."""
    found = []
    for one, other in zip(folders(undisturbed), folders(disturbed), strict=True):
        if other.read().status is not Status.FINISHED or other.log.read_text().count("recorded in") != 1:
            found.append(f"{other.path.name} did not finish once")
        for name in ("evidence", "history"):
            left, right = (pd.read_csv(getattr(folder, name)) for folder in (one, other))
            if not left.equals(right):
                found.append(f"{name} of {other.path.name}")
    return found


def main() -> int:
    """Run both studies, and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="OVERRIDES", help="e.g. launcher.n_jobs=2 or launcher=slurm")
    words = parser.parse_intermixed_args().words
    with tempfile.TemporaryDirectory() as folder:
        undisturbed, disturbed = Path(folder) / "undisturbed", Path(folder) / "disturbed"
        begin = time.monotonic()
        subprocess.run(command(undisturbed, words), check=True)
        print(f"undisturbed: {time.monotonic() - begin:.0f} s", flush=True)
        disturb(disturbed, words)
        subprocess.run(command(disturbed, words), check=True)
        states = [each.read() for each in folders(disturbed)]
        resumed = sum("resuming from" in each.log.read_text() for each in folders(disturbed))
        found = differences(undisturbed, disturbed)
        finished = sum(state.status is Status.FINISHED for state in states)
        print(f"{finished} of {len(states)} finished, {resumed} of them resumed; different: {found or 'nothing'}")
        trained = sum(sum(state.seconds.values()) for state in (each.read() for each in folders(undisturbed)))
        print(f"training and judging of the undisturbed study: {trained:.0f} s in all jobs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
