"""A job that a launcher has taken and that has not begun its record: what `medexp status` tells of it."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from medexp.core.files import write_json
from medexp.core.record import now

_FILE = "waiting.json"


@dataclass(frozen=True)
class Waiting:
    """Content of waiting.json, which a run removes when it begins its record.

    Attributes:
        axes: The user's own overrides.
        launcher: What has taken the job, e.g. "local" or "slurm".
        id: What the launcher knows the job by: the job of a cluster, or the host and process of a sweep.
        since: When it was taken (UTC).
        error: Why it ended before it began its record; None while it waits.
    """

    axes: dict[str, str]
    launcher: str
    id: str
    since: str
    error: str | None = None

    @classmethod
    def here(cls, axes: dict[str, str], launcher: str) -> Waiting:
        """A job that waits for this process."""
        return cls(axes=axes, launcher=launcher, id=f"{socket.gethostname()}:{os.getpid()}", since=now())

    def write(self, folder: Path) -> None:
        """Write waiting.json into the run's folder, which is made where it is not there."""
        write_json(folder / _FILE, asdict(self))

    @property
    def is_orphan(self) -> bool:
        """Whether the process that it waits for is gone; False where that cannot be seen from here."""
        host, _, process = self.id.rpartition(":")
        if host != socket.gethostname() or not process.isdigit():
            return False
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


def read_waiting(folder: Path) -> Waiting | None:
    """What waiting.json in a run's folder says; None where there is none, or none that can be read."""
    try:
        return Waiting(**json.loads((folder / _FILE).read_text()))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None


def end_waiting(folder: Path) -> None:
    """Remove waiting.json from a run's folder."""
    (folder / _FILE).unlink(missing_ok=True)
