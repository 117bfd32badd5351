"""The states of a study's runs, read from their records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medexp.core.errors import RecordError, UsageError, did_you_mean
from medexp.core.leftovers import SET_ASIDE
from medexp.core.record import Record, RunFolder, axes_name
from medexp.core.waiting import Waiting, read_waiting

DAMAGED, FAILED, FINISHED, KILLED, QUEUED, RUNNING = "damaged", "failed", "finished", "killed", "queued", "running"
PRUNED = "pruned"
NOT_STARTED = "not started"


@dataclass(frozen=True)
class RunState:
    """A run of a study.

    Attributes:
        folder: Where it is recorded.
        record: What is recorded; None where nothing is, or where it cannot be read.
        problem: Why it cannot be read.
        waiting: What a launcher knows of it, until it begins.
        progress: How far it was when it last said so.
    """

    folder: RunFolder
    record: Record | None
    problem: str = ""
    waiting: Waiting | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The run's axes."""
        known = self.record or self.waiting
        return self.folder.path.name if known is None else axes_name(known.axes)

    @property
    def status(self) -> str:
        """State of the run in a word or two."""
        if self.waiting is not None and (self.waiting.error is not None or not self.waiting.is_orphan):
            return QUEUED if self.waiting.error is None else FAILED
        if self.record is not None:
            return self.record.status.value
        return DAMAGED if self.problem else NOT_STARTED

    @property
    def score(self) -> str:
        """Mean of the first metric, or the last validation's, or nothing before there is one."""
        for metric, by_label in {} if self.record is None else self.record.results.items():
            mean = by_label.get("mean")
            return f"{metric} {'undefined' if mean is None else f'{mean:.4f}'}"
        value = self.progress.get("value")
        return "" if value is None else f"{self.progress['metric']} {value:.4f}"

    @property
    def place(self) -> str:
        """How far a run is that has not finished: epoch, or the cases that were judged."""
        if self.status not in (RUNNING, KILLED, FAILED, PRUNED):
            return ""
        done = ("stage", "batch", "batches") if "step" not in self.progress else ("epoch", "epoch", "epochs")
        word, at, of = (self.progress.get(key) for key in done)
        return "" if word is None else f"{word if done[0] == 'stage' else 'epoch'} {at}{'' if of is None else f'/{of}'}"

    @property
    def left_s(self) -> float | None:
        """Seconds to the end of the training, or of the judging, as the run itself last said."""
        return self.progress.get("left_s") if self.status == RUNNING else None

    @property
    def minutes(self) -> float:
        """Time spent, summed over resumptions."""
        return 0.0 if self.record is None else sum(self.record.seconds.values()) / 60

    @property
    def reason(self) -> str:
        """Why it did not finish, or cannot be read, on one line; what it waits for."""
        if self.status == QUEUED and self.waiting is not None:
            return f"{self.waiting.launcher} {self.waiting.id}"
        if self.waiting is not None and self.waiting.error is not None:
            return " ".join(self.waiting.error.split())
        text = self.problem if self.record is None else self.record.error or ""
        return " ".join(text.split())


def read_run(folder: RunFolder) -> RunState | None:
    """The state of a run; None where there is neither a record nor a job that waits."""
    waiting = read_waiting(folder.path)
    if not folder.exists:
        return None if waiting is None else RunState(folder=folder, record=None, waiting=waiting)
    try:
        return RunState(folder=folder, record=folder.read(), waiting=waiting, progress=_progress(folder))
    except RecordError as error:
        return RunState(folder=folder, record=None, problem=str(error), waiting=waiting)


def _progress(folder: RunFolder) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(folder.progress.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return content


def study_folder(name: str, runs: Path) -> Path:
    """The folder of a study, given by its name or as a path.

    Args:
        name: What the user gave.
        runs: Folder of all studies.

    Returns:
        The folder.

    Raises:
        UsageError: There is none.
    """
    for folder in (runs / quote(name, safe=" "), Path(name)):
        if folder.is_dir():
            return folder
    known = [item.name for item in runs.iterdir() if item.is_dir()] if runs.is_dir() else []
    raise UsageError(
        f"no study {name} under {runs}{did_you_mean(name, known)} (known: {', '.join(sorted(known)) or 'none'})"
    )


def read_study(folder: Path) -> Iterator[RunState]:
    """The runs of a study, sorted by their folders; runs that were set aside are left out."""
    for path in sorted(folder.iterdir()):
        state = None if SET_ASIDE in path.name or not path.is_dir() else read_run(RunFolder(path))
        if state is not None:
            yield state


def count_by_status(states: Iterable[RunState]) -> str:
    """How many runs are in each state, in words."""
    return ", ".join(f"{count} {status}" for status, count in Counter(state.status for state in states).items())
