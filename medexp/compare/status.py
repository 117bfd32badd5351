"""The states of a study's runs, read from their records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medexp.core.errors import UsageError, did_you_mean
from medexp.core.record import Record, RunFolder, Status, axes_name


@dataclass(frozen=True)
class RunState:
    """A run of a study.

    Attributes:
        folder: Where it is recorded.
        record: What is recorded.
    """

    folder: RunFolder
    record: Record

    @property
    def name(self) -> str:
        """The run's axes."""
        return axes_name(self.record.axes)

    @property
    def score(self) -> str:
        """Mean of the first metric, or nothing before there is one."""
        for metric, by_label in self.record.results.items():
            mean = by_label.get("mean")
            return f"{metric} {'undefined' if mean is None else f'{mean:.4f}'}"
        return ""


def study_folder(name: str, runs: Path) -> Path:
    """The folder of a study, given by its name or as a path.

    Raises:
        UsageError: There is none.
    """
    for folder in (runs / name, Path(name)):
        if folder.is_dir():
            return folder
    known = [item.name for item in runs.iterdir() if item.is_dir()] if runs.is_dir() else []
    raise UsageError(
        f"no study {name} under {runs}{did_you_mean(name, known)} (known: {', '.join(sorted(known)) or 'none'})"
    )


def read_study(folder: Path) -> Iterator[RunState]:
    """The runs of a study, sorted by their axes; runs that were set aside are left out."""
    for path in sorted(folder.iterdir()):
        run = RunFolder(path)
        if run.exists and ".before-" not in path.name:
            yield RunState(folder=run, record=run.read())


def count_by_status(states: list[RunState]) -> str:
    """How many runs are in each state, in words."""
    counts = {status: sum(state.record.status is status for state in states) for status in Status}
    return ", ".join(f"{count} {status.value}" for status, count in counts.items() if count)
