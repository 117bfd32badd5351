"""What a sweep costs beside the training: once, and for each job.

Run by `make bench-sweep`. The same tiny experiment is swept over few and over many seeds, one job at a time; what the
records say of training and judging is taken off, and a line through both gives the two costs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from medexp.core.hardware import available_cores, cpu_model
from medexp.core.record import RunFolder

_FEW, _MANY = 2, 12
_WORDS = (
    "dataset=phantom_2d", "dataset.source.n_cases=20", "dataset.source.shape=[64,64]", "dataset.patch_size=[64,64]",
    "model.channels=[4,8]", "model.strides=[2]", "metrics=dice", "trainer.max_steps=20", "overlays=0", "threads=1",
    "precision=32-true", "tracking=off", "launcher.n_jobs=1",
)  # fmt: skip


def beside(count: int, words: list[str]) -> float:
    """Seconds of a sweep over so many seeds, without those that its records say of training and judging."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "medexp.cli.main", "train", "-m", *_WORDS, f"seed=0..{count - 1}", *words]
        begin = time.monotonic()
        subprocess.run([*command, f"paths.runs={runs}"], check=True, stdout=subprocess.DEVNULL)
        spent = time.monotonic() - begin
        records = [RunFolder(file.parent).read() for file in Path(runs).glob("*/*/run.json")]
        return spent - sum(sum(record.seconds.values()) for record in records)


def loading() -> float:
    """Seconds that a process takes to import all that a training needs, which a sweep does once."""
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", "import medexp.launchers.loaded"], check=True)
    return time.monotonic() - begin


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="OVERRIDES", help="e.g. preflight=off")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_intermixed_args()
    few, many, loads = [], [], []
    beside(_FEW, given.words)  # the data are generated and prepared once
    for _ in range(given.rounds):
        loads.append(loading())
        few.append(beside(_FEW, given.words))
        many.append(beside(_MANY, given.words))
    of_job = (median(many) - median(few)) / (_MANY - _FEW)
    once = median(few) - _FEW * of_job
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {available_cores()} cores, {given.rounds} rounds")
    print(f"once {once:.1f} s, a job {of_job:.2f} s; imports alone take {median(loads):.1f} s")
    print(*(f"{jobs} jobs: {[round(value, 1) for value in spent]}" for jobs, spent in ((_FEW, few), (_MANY, many))))


if __name__ == "__main__":
    main()
