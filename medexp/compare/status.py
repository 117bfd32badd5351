"""The states of a study's runs, read from their records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from medexp.core.errors import RecordError, UsageError, did_you_mean
from medexp.core.leftovers import SET_ASIDE
from medexp.core.record import Record, RunFolder, axes_name

DAMAGED = "damaged"


@dataclass(frozen=True)
class RunState:
    """A run of a study.

    Attributes:
        folder: Where it is recorded.
        record: What is recorded; None where it cannot be read.
        problem: Why it cannot be read.
    """

    folder: RunFolder
    record: Record | None
    problem: str = ""

    @property
    def name(self) -> str:
        """The run's axes."""
        return self.folder.path.name if self.record is None else axes_name(self.record.axes)

    @property
    def status(self) -> str:
        """State of the run in a word."""
        return DAMAGED if self.record is None else self.record.status.value

    @property
    def score(self) -> str:
        """Mean of the first metric, or nothing before there is one."""
        for metric, by_label in {} if self.record is None else self.record.results.items():
            mean = by_label.get("mean")
            return f"{metric} {'undefined' if mean is None else f'{mean:.4f}'}"
        return ""

    @property
    def minutes(self) -> float:
        """Time spent, summed over resumptions."""
        return 0.0 if self.record is None else sum(self.record.seconds.values()) / 60

    @property
    def reason(self) -> str:
        """Why it did not finish, or cannot be read, on one line."""
        text = self.problem if self.record is None else self.record.error or ""
        return " ".join(text.split())


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
        run = RunFolder(path)
        if not run.exists or SET_ASIDE in path.name:
            continue
        try:
            state = RunState(folder=run, record=run.read())
        except RecordError as error:
            state = RunState(folder=run, record=None, problem=str(error))
        yield state


def count_by_status(states: Iterable[RunState]) -> str:
    """How many runs are in each state, in words."""
    return ", ".join(f"{count} {status}" for status, count in Counter(state.status for state in states).items())
