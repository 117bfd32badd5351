"""Sending what was tracked offline, by wandb's own `wandb sync`: each folder once, those of one run in their order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from medexp.core.errors import RecordError
from medexp.core.files import write_json

_FILE = "sent.json"
_SENT = "sent"
# What wandb says of a folder whose writer was killed before it wrote the first block.
_HOLDS_NOTHING = "didn't find run info"
# What it says of one whose writer was killed later; all up to there is sent.
_CUT_OFF = "incomplete transaction log"
# wandb would try for hours where the service cannot be reached; a variable that is set already stays.
_RETRIES = {f"WANDB__{what}_RETRY_MAX": "4" for what in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")}


@dataclass(frozen=True)
class Sending:
    """What became of a folder that was to be sent.

    Attributes:
        folder: The folder.
        problem: What wandb says was wrong; None where it was sent.
    """

    folder: Path
    problem: str | None

    @property
    def empty(self) -> bool:
        """Whether there was nothing to send, since its writer was killed too early."""
        return self.problem is not None and _HOLDS_NOTHING in self.problem

    @property
    def failed(self) -> bool:
        """Whether it is to be sent again."""
        return self.problem is not None and not self.empty


def pending_folders(owner: Path) -> list[Path]:
    """The folders of offline runs that have not been sent, oldest first.

    A folder counts as sent where this was remembered, or where the user sent it with `wandb sync` alone.

    Args:
        owner: Folder of a run or of a study, which holds wandb's folder.

    Returns:
        The folders; an interrupted run has several, all of one run with Weights & Biases.

    Raises:
        RecordError: What was sent cannot be read.
    """
    states = _states(owner)
    found = sorted(path for path in (owner / "wandb").glob("offline-run-*") if _file(path) is not None)
    return [path for path in found if states.get(path.name, _SENT if _marker(path) else "") != _SENT]


def send_pending(owner: Path) -> Iterator[Sending]:
    """Send the folders of offline runs that have not been sent, oldest first, up to the first that fails.

    What was sent is remembered beside the folders. A folder whose sending was interrupted is sent again; wandb starts
    it at the same step.

    Args:
        owner: Folder of a run or of a study, which holds wandb's folder.

    Yields:
        What became of each folder.

    Raises:
        RecordError: Another process sends these folders, or what was sent cannot be read.
    """
    try:
        with FileLock(owner / "wandb" / ".sync.lock", timeout=0, is_singleton=False):
            for folder in pending_folders(owner):
                _remember(owner, folder, "sending")
                sending = Sending(folder, _send(folder))
                if not sending.failed:
                    _remember(owner, folder, _SENT)
                yield sending
                if sending.failed:
                    return
    except Timeout:
        raise RecordError(f"{owner / 'wandb'} is being sent by another process") from None


def _states(owner: Path) -> dict[str, str]:
    file = owner / "wandb" / _FILE
    try:
        states: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise RecordError(f"{file} is damaged: {error}; restore it or move it away") from None
    return states


def _remember(owner: Path, folder: Path, state: str) -> None:
    write_json(owner / "wandb" / _FILE, {**_states(owner), folder.name: state})


def _file(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.wandb"))), None)


def _marker(folder: Path) -> Path | None:
    """The mark that wandb makes of a folder when it has sent it, with or without success."""
    return next(iter(folder.glob("*.wandb.synced")), None)


def _send(folder: Path) -> str | None:
    """Send one folder; why it failed, or None."""
    if (old := _marker(folder)) is not None:
        old.unlink()
    # In a folder of its own, so that wandb's logs are those of this call.
    with tempfile.TemporaryDirectory(prefix="medexp-") as scratch:
        settings = Path("wandb", "settings")
        if settings.is_file():
            (Path(scratch) / "wandb").mkdir()
            shutil.copy(settings, Path(scratch) / settings)
        # A service of wandb that this process has would be used, and works in another folder.
        environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
        done = subprocess.run(
            # Paths of an offline run's artifacts are relative to its folder.
            [sys.executable, "-P", "-m", "wandb", "sync", "--include-synced", "."],
            cwd=folder,
            env={**_RETRIES, **environment, "WANDB_DIR": scratch},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        errors = _errors(Path(scratch))
    serious = [error for error in errors if _CUT_OFF not in error["msg"]]
    if serious:
        return _worst(serious)
    if not errors and (done.returncode or _marker(folder) is None):
        return " ".join((done.stderr or done.stdout).split())[-300:] or f"wandb ended with code {done.returncode}"
    return None


def _errors(logs: Path) -> list[dict[str, str]]:
    """What wandb's logs call an error; `wandb sync` ends with 0 and marks the folder as sent in spite of most."""
    lines = [line for file in logs.rglob("debug-sync*.log") for line in file.read_text().splitlines()]
    # The last line of a process that was killed may be half there.
    entries = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [entry for entry in entries if entry["level"].startswith("ERROR")]


def _worst(errors: list[dict[str, str]]) -> str:
    # "ERROR+4" is worse than "ERROR"; an error of the connection alone does not say what for.
    worst = max(errors, key=lambda entry: (entry["level"], not entry["msg"].startswith("api:")))
    return " ".join(f"{worst['msg']} {worst.get('error', '')}".split())
