"""Measurements of cases on disk, by their content, so that no case is read again for a check."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from medexp.core.files import write_atomic
from medexp.core.hashing import hash_file, hash_plain
from medexp.core.types import Case, Source
from medexp.data._code import code_of
from medexp.data._file_hashes import FileHashes
from medexp.data.integrity import measurement
from medexp.data.integrity.measurement import Measurement

# The database of the prepared cases, so that each file is hashed once for both.
_HASHES = "file_hashes.sqlite"

HashFiles = Callable[[Sequence[Path]], Mapping[Path, str]]


class Store:
    """What is known of the cases of a source.

    It lies in one file for each configuration of a source and code that reads it.

    Args:
        folder: Folder of prepared cases.
        source: Reads the cases.
        identity: The source's configuration.
        hash_files: Hash of each file's bytes; OSError where one cannot be read. None: hashes that are remembered in the
            folder.
    """

    def __init__(self, *, folder: Path, source: Source, identity: str, hash_files: HashFiles | None = None) -> None:
        code = hash_plain([hash_file(Path(measurement.__file__)), code_of(source)])
        self.path = folder / "integrity" / f"{hash_plain([identity, code])[:32]}.json"
        self.hash_files = hash_files or FileHashes(folder / _HASHES).of
        self._stored: Mapping[str, Any] = {}

    def find(self, cases: Sequence[Case]) -> list[Measurement | None]:
        """The measurement of each case as its files are now, as far as it is known."""
        self._load()
        return [None if key is None else self._measurement(key) for key in self._keys(cases)]

    def add(self, measured: Iterable[tuple[Case, Measurement]]) -> None:
        """Write further measurements beside those that others may have written meanwhile."""
        pairs = list(measured)
        keys = self._keys([case for case, _ in pairs])
        added = {key: seen.as_plain() for key, (_, seen) in zip(keys, pairs, strict=True) if key is not None}
        self._load()
        self._stored = {**self._stored, **added}
        content = json.dumps(self._stored, separators=(",", ":")).encode()
        write_atomic(self.path, lambda stream: stream.write(content))

    def lock(self) -> FileLock:
        """Held by whoever reads cases, so that of several processes one reads and the others find it done."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.path.with_suffix(".lock"), is_singleton=False)

    def _load(self) -> None:
        """Read what is on disk; a file that is gone or damaged is as good as none."""
        try:
            stored = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            stored = {}
        self._stored = stored if isinstance(stored, dict) else {}

    def _measurement(self, key: str) -> Measurement | None:
        try:
            return Measurement.from_plain(self._stored[key])
        except (KeyError, TypeError, ValueError, AttributeError):  # not there, or written by somebody else
            return None

    def _keys(self, cases: Sequence[Case]) -> list[str | None]:
        """Under which name each case is stored; None where not all of its files can be read."""
        hashes = self._hashes({path for case in cases for path in case.files})
        return [
            hash_plain([case.case_id, dict(case.facts), *(hashes[path] for path in case.files)])[:32]
            if hashes.keys() >= set(case.files)
            else None
            for case in cases
        ]

    def _hashes(self, paths: Iterable[Path]) -> dict[Path, str]:
        """The hashes of those files that can be read."""
        present = sorted(path for path in paths if path.is_file())
        try:
            return dict(self.hash_files(present))
        except OSError:
            return {path: sha256 for one in present for path, sha256 in self._hash(one).items()}

    def _hash(self, path: Path) -> Mapping[Path, str]:
        try:
            return self.hash_files([path])
        except OSError:
            return {}
