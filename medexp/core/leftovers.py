"""What lies in run folders and in the cache and is not needed any more; nothing here imports torch."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.core.errors import RecordError
from medexp.core.files import write_json
from medexp.core.hashing import hash_file
from medexp.core.record import RunFolder, Status

SET_ASIDE = ".before-"
_INDEX = "index.json"
# What tempfile makes of the prefix ".NAME.": files of write_atomic, folders of half-prepared cases.
_TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}")
_REMOVING = "removing"
_OLD_S = 3600.0
_DAY_S = 86400.0


@dataclass(frozen=True)
class Leftover:
    """A file or folder that is not needed any more.

    Attributes:
        path: Where it is.
        size_bytes: Its size, with all that is in it.
        why: Why it is not needed.
    """

    path: Path
    size_bytes: int
    why: str


def remove(leftovers: Iterable[Leftover]) -> None:
    """Remove files and folders; a folder goes under a temporary name first, so that none is ever half there."""
    for leftover in leftovers:
        if not leftover.path.is_dir():
            leftover.path.unlink(missing_ok=True)
            continue
        hidden = leftover.path
        if not _TEMPORARY.fullmatch(hidden.name):
            hidden = hidden.with_name(f".{hidden.name}.{_REMOVING}")
            leftover.path.rename(hidden)
        shutil.rmtree(hidden)


def clean_run(run: RunFolder, *, keep: int, delete: bool) -> list[Leftover]:
    """What a run does not need any more, removed if asked for; nothing of a run that another process holds.

    Args:
        run: The run.
        keep: How many of the newest intact checkpoints of a finished run stay, beside the best one.
        delete: Remove it.

    Returns:
        What is, or was, not needed.

    Raises:
        RecordError: The record is damaged, or a process took hold of the run in this moment.
    """
    if run.is_locked():
        return []
    if not delete:
        return [*half_written(run.path), *_unneeded_checkpoints(run, keep=keep)]
    with run.lock():
        checkpoints = _unneeded_checkpoints(run, keep=keep)
        gone = {leftover.path.name for leftover in checkpoints}
        index = _read_index(run)
        if gone & index.keys():
            left = {name: entry for name, entry in index.items() if name not in gone}
            write_json(run.checkpoints / _INDEX, left)
        found = [*half_written(run.path), *checkpoints]
        remove(found)
    return found


def half_written(folder: Path) -> list[Leftover]:
    """Temporary files and folders of killed writers, an hour old at least."""
    return [
        _leftover(path, "left by a killed writer")
        for path in sorted(folder.rglob(".*"))
        if _TEMPORARY.fullmatch(path.name) and _age_s(path) > _OLD_S
    ]


def set_aside_runs(study: Path) -> list[Leftover]:
    """Runs that `on_change=new` kept under another name."""
    found = sorted(path for path in study.iterdir() if path.is_dir() and SET_ASIDE in path.name)
    return [_leftover(path, "a run that was set aside") for path in found if not RunFolder(path).is_locked()]


def unused_cache(cache: Path, *, days: float) -> list[Leftover]:
    """Prepared cases that nobody has read or written for so many days, as far as the file system tells."""
    found = sorted(path for path in (cache / "prepared").glob("*/*") if path.is_dir() and path.name[0] != ".")
    why = f"not used for {days:g} days"
    return [_leftover(path, why) for path in found if _age_s(path, read=True) > days * _DAY_S]


def _unneeded_checkpoints(run: RunFolder, *, keep: int) -> list[Leftover]:
    index = _read_index(run)
    if not index:
        return []
    strays = sorted(path for path in run.checkpoints.glob("*.ckpt") if path.name not in index)
    found = [_leftover(path, "a checkpoint that was never completed") for path in strays]
    if run.exists and run.read().status in (Status.FINISHED, Status.PRUNED):
        found += [
            _leftover(path, "an older checkpoint of a run that has ended") for path in _older(run, index, keep=keep)
        ]
    return found


def _older(run: RunFolder, index: dict[str, dict[str, Any]], *, keep: int) -> list[Path]:
    """All but the newest intact ones; none where no intact one would stay."""
    names = [name for name, entry in index.items() if entry["role"] == "last"]
    names.sort(key=lambda name: (index[name]["step"], index[name]["batch"]), reverse=True)
    kept: list[str] = []
    for name in names if len(names) > keep else []:
        file = run.checkpoints / name
        if len(kept) < keep and file.exists() and hash_file(file) == index[name]["sha256"]:
            kept.append(name)
    if keep and not kept:
        return []
    return [run.checkpoints / name for name in names if name not in kept]


def _read_index(run: RunFolder) -> dict[str, dict[str, Any]]:
    file = run.checkpoints / _INDEX
    try:
        index: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise RecordError(f"{file} is damaged: {error}; restore it or move it away") from None
    return index


def _leftover(path: Path, why: str) -> Leftover:
    return Leftover(path=path, size_bytes=sum(item.lstat().st_size for item in _files(path)), why=why)


def _age_s(path: Path, *, read: bool = False) -> float:
    """Seconds since the newest change, or also reading, of anything in a path."""
    newest = path.lstat().st_mtime
    for item in _files(path):
        status = item.lstat()
        newest = max(newest, status.st_mtime, status.st_atime if read else 0.0)
    return time.time() - newest


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    yield from (item for item in path.rglob("*") if not item.is_dir())
