"""Hashes of files that are remembered, so that a second start asks the file system alone."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from medexp.core.hardware import available_cores
from medexp.core.hashing import hash_file

LOGGER = logging.getLogger("medexp.data")
REHASH = "MEDEXP_REHASH"

_AT_ONCE = 500
_TOLD_EVERY_S = 10.0
# Within the coarsest tick of a file system's clock a second change would bear the same time.
_SETTLED_NS = 2_000_000_000
_WAIT_S = 30.0


class FileHashes:
    """SHA-256 of files, remembered in a database that processes share.

    A remembered hash is trusted as long as the file's absolute path, size, times of change (of content and of inode)
    and inode are the same; a file that changed in the last two seconds is not remembered yet. Who changes bytes behind
    the file system's back, or sets its clock back, is not noticed: with MEDEXP_REHASH=1 in the environment every file
    is read again and what is remembered is corrected.

    Args:
        file: The database; it is made where it is missing, and begun anew where it is damaged.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def of(self, paths: Sequence[Path]) -> dict[Path, str]:
        """The hashes of files; OSError where one cannot be read."""
        begin_ns, stamps = time.time_ns(), {path: _stamp(path) for path in paths}
        known = {} if os.environ.get(REHASH, "0") not in ("", "0") else self._remembered(stamps)
        new = [path for path in stamps if path not in known]
        if not new:
            return known
        told_s = time.monotonic()
        with ThreadPoolExecutor(available_cores()) as threads:  # hashing and reading let go of the interpreter
            for chunk in _chunks(new):
                found = dict(zip(chunk, threads.map(hash_file, chunk), strict=True))
                settled = {path: sha256 for path, sha256 in found.items() if _is_settled(stamps[path], begin_ns)}
                self._remember(
                    {path: sha256 for path, sha256 in settled.items() if _stamp(path) == stamps[path]}, stamps
                )
                known |= found
                if time.monotonic() - told_s > _TOLD_EVERY_S:
                    told_s = time.monotonic()
                    LOGGER.info(
                        "reading %d new files to know their content: %d left", len(new), len(stamps) - len(known)
                    )
        return known

    def _remembered(self, stamps: dict[Path, tuple[int, ...]]) -> dict[Path, str]:
        if not self.file.exists():
            return {}
        known: dict[Path, str] = {}
        try:
            with closing(sqlite3.connect(self.file, timeout=_WAIT_S)) as database:
                for chunk in _chunks(list(stamps)):
                    names = {os.path.abspath(path): path for path in chunk}
                    marks = ",".join("?" * len(names))
                    query = f"SELECT path, stamp, sha256 FROM files WHERE path IN ({marks})"
                    for name, stamp, sha256 in database.execute(query, list(names)):
                        if stamp == _text(stamps[names[name]]):
                            known[names[name]] = sha256
        except sqlite3.Error as error:
            self._give_up(error)
        return known

    def _remember(self, hashes: dict[Path, str], stamps: dict[Path, tuple[int, ...]]) -> None:
        if not hashes:
            return
        rows = [(os.path.abspath(path), _text(stamps[path]), sha256) for path, sha256 in hashes.items()]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=_WAIT_S)) as database, database:
                database.execute(
                    "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT, sha256 TEXT) WITHOUT ROWID"
                )
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Go on without: a hash that is not remembered costs time, and nothing else."""
        LOGGER.debug("%s is of no use: %s", self.file, error)
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        if damaged:
            self.file.unlink(missing_ok=True)


def _stamp(path: Path) -> tuple[int, ...]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _is_settled(stamp: tuple[int, ...], now_ns: int) -> bool:
    return now_ns - max(stamp[:2]) > _SETTLED_NS


def _text(stamp: tuple[int, ...]) -> str:
    return " ".join(map(str, stamp))


def _chunks(paths: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for first in range(0, len(paths), _AT_ONCE):
        yield paths[first : first + _AT_ONCE]
