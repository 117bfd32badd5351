"""The run record: a folder that says what was run, with what, and what came out. The local record is the truth."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from medexp.core.config import comparable, differences
from medexp.core.errors import RecordError, UsageError
from medexp.core.files import write_json

SCHEMA_VERSION = 1
_LONGEST_NAME = 180
# Whoever asks whether a folder is locked holds it for a moment.
_LOCK_PATIENCE_S = 1.0


class Status(StrEnum):
    """State of a run. A record that says "running" while nobody holds its lock belongs to a killed process.

    A search stops trials that promise little: "pruned" is neither finished, nor is it resumed.
    """

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"
    PRUNED = "pruned"


@dataclass
class Record:
    """Content of run.json.

    Attributes:
        study: The study's name.
        axes: The user's own overrides.
        status: State of the run.
        fingerprint: What makes two runs the same: hashes and versions.
        versions: Versions of the packages.
        hardware: The machine.
        threads: Threads of the computation.
        precision: Resolved precision.
        determinism: What is bitwise reproducible in this run.
        checkpoint: Which checkpoint the results come from.
        part: Which part of the split the results are of.
        metrics: Definition of each metric.
        results: Aggregated value by metric and label.
        validation: The same over the validation cases, of a trial of a search whose results are of other cases.
        seconds: Time spent by phase, summed over resumptions.
        notes: What a reader of the results must know.
        error: Message of the failure, if it failed; why it was stopped, if it was.
        wandb_id: Id of the tracker's run.
        started: When the run was first started (UTC).
        ended: When it ended (UTC).
        schema_version: Version of this layout.
    """

    study: str
    axes: dict[str, str]
    status: Status = Status.RUNNING
    fingerprint: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    threads: int = 0
    precision: str = ""
    determinism: str = ""
    checkpoint: str = "last"
    part: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    results: dict[str, dict[str, float | None]] = field(default_factory=dict)
    validation: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str | None = None
    wandb_id: str | None = None
    started: str = ""
    ended: str | None = None
    schema_version: int = SCHEMA_VERSION


class RunFolder:
    """Paths of a run record, and its reading, writing and locking.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    config = property(lambda self: self.path / "config.yaml")
    evidence = property(lambda self: self.path / "evidence.csv")
    cases = property(lambda self: self.path / "cases.csv")
    steps = property(lambda self: self.path / "steps.jsonl")
    history = property(lambda self: self.path / "history.csv")
    checkpoints = property(lambda self: self.path / "checkpoints")
    overlays = property(lambda self: self.path / "overlays")
    predictions = property(lambda self: self.path / "predictions")
    log = property(lambda self: self.path / "log.txt")
    output = property(lambda self: self.path / "output.txt")
    progress = property(lambda self: self.path / "progress.json")

    def process_log(self, rank: int) -> Path:
        """What a process other than the first says, where several train together."""
        return self.path / f"log.process{rank}.txt"

    @property
    def exists(self) -> bool:
        """Whether there is a record."""
        return (self.path / "run.json").exists()

    def read(self) -> Record:
        """Read run.json; a "running" record that nobody holds is told as killed.

        Returns:
            The record.

        Raises:
            RecordError: There is no record, it is damaged, or a newer version wrote it.
        """
        file = self.path / "run.json"
        try:
            stored = json.loads(file.read_text())
        except FileNotFoundError:
            raise RecordError(f"{self.path} holds no run record (run.json); check the path") from None
        except ValueError as error:  # no text, or no JSON
            raise RecordError(f"{file} is damaged: {error}; restore it or move the folder away") from None
        if not isinstance(stored, dict):
            raise RecordError(f"{file} is damaged: it holds no mapping; restore it or move the folder away")
        if stored.get("schema_version") != SCHEMA_VERSION:
            raise RecordError(
                f"{file} has schema version {stored.get('schema_version')}, this medexp reads {SCHEMA_VERSION}"
            )
        known = {item.name for item in fields(Record)}
        stored["status"] = Status(stored["status"])
        record = Record(**{key: value for key, value in stored.items() if key in known})
        if record.status is Status.RUNNING and not self.is_locked():
            record.status = Status.KILLED
        return record

    def write(self, record: Record) -> None:
        """Replace run.json atomically."""
        write_json(self.path / "run.json", asdict(record))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for writing.

        Raises:
            RecordError: Another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self._file_lock()
        try:
            lock.acquire(timeout=_LOCK_PATIENCE_S)
        except Timeout:
            raise RecordError(f"{self.path} is being written by another process; wait for it or stop it") from None
        try:
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process holds the folder for writing; taken for granted where this one may not write there."""
        if not (self.path / ".lock").exists():
            return False
        lock = self._file_lock()
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        lock.release()
        return False

    def _file_lock(self) -> FileLock:
        return FileLock(self.path / ".lock", is_singleton=False)


def run_folder(runs: Path, study: str, axes: Mapping[str, str]) -> RunFolder:
    """The folder of the job with these axes: the same job finds its own folder again.

    Args:
        runs: Folder of all studies.
        study: The study's name.
        axes: The user's own overrides.

    Returns:
        The folder, which need not exist.

    Raises:
        UsageError: The study's name is no name of a folder.
    """
    if study in ("", ".", ".."):
        raise UsageError(f"study needs a name of its own, got {study!r}")
    return RunFolder(runs / quote(study, safe=" ") / axes_name(axes))


def axes_name(axes: Mapping[str, str]) -> str:
    """The user's overrides in a readable, sorted form; "default" where there is none.

    >>> axes_name({"seed": "1", "fold": "0", "loss": "dice"})
    'fold=0,loss=dice,seed=1'
    """
    from medexp.core.hashing import hash_text

    parts = (f"{quote(key, safe='.@:')}={quote(value, safe='.[] :,')}" for key, value in sorted(axes.items()))
    name = ",".join(parts) or "default"
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}~{hash_text(name)[:12]}"


def changes(old: Record, old_config: Mapping[str, Any], new: Record, new_config: Mapping[str, Any]) -> list[str]:
    """What makes a new job another experiment than the recorded one: configuration leaf by leaf, then the rest."""
    found = differences(comparable(old_config), comparable(new_config))
    rest = {key: value for key, value in new.fingerprint.items() if key != "config"}
    recorded = {key: value for key, value in old.fingerprint.items() if key in rest}
    return found + differences(recorded, rest)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
