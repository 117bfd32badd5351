"""Summaries of cases on disk, by their content: each is computed once, in parallel, and shared by all who ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medexp.core.errors import DataError
from medexp.core.faults import Fault, Severity
from medexp.core.hashing import hash_file
from medexp.core.types import Case, Source
from medexp.data._code import code_of
from medexp.data._file_hashes import FileHashes
from medexp.data._folders import ComputedFolders, writing
from medexp.data._parallel import for_each_case
from medexp.data.fingerprint import case as measuring
from medexp.data.fingerprint import objects
from medexp.data.fingerprint.case import CaseSummary

_FILE = "summary.json"
# The database of the prepared cases, so that each file is hashed once for both.
_HASHES = "file_hashes.sqlite"


class CaseSummaries:
    """The summary of each case, in a JSON file of its own.

    Args:
        folder: Folder of prepared cases.
        source: Reads a case.
        identity: The source's configuration; another one may read the same files differently.
        ignored_label: Label id of voxels that nobody annotated; None where there is none.
    """

    def __init__(self, *, folder: Path, source: Source, identity: str, ignored_label: int | None = None) -> None:
        self.source = source
        self.ignored_label = ignored_label
        self._folders = ComputedFolders(folder / "fingerprint")
        self._hashes = FileHashes(folder / _HASHES)
        own = [hash_file(Path(measuring.__file__)), hash_file(Path(objects.__file__))]
        self._key = {"code": [*own, code_of(source)], "source": identity, "ignored_label": ignored_label}
        self._contents: dict[str, Any] = {}

    def of(self, cases: Sequence[Case]) -> dict[str, CaseSummary]:
        """The summary of each case, by its id.

        Args:
            cases: The cases.

        Returns:
            The summaries, in the order of the cases.

        Raises:
            DataError: Tells what is wrong with each case that cannot be read.
        """
        missing = [_missing(case, path) for case in cases for path in case.files if not path.is_file()]
        faults = [*missing, *(fault for case in cases for fault in case.faults if fault.severity is Severity.ERROR)]
        if faults:
            raise DataError.of(*faults)
        hashes = self._hashes.of(sorted({path for case in cases for path in case.files}))
        for case in cases:
            self._contents[case.case_id] = [dict(case.facts), *(hashes[path] for path in case.files)]
        absent = [case for case in cases if not self._folder_of(case).exists()]
        for_each_case(self._write, absent, doing="measuring cases")
        return {case.case_id: self._read(case) for case in cases}

    def readable(self, cases: Sequence[Case]) -> dict[str, CaseSummary]:
        """The same of those cases that can be read; what is wrong with the others, the check of the data tells."""
        there = [case for case in cases if not case.faults and all(path.is_file() for path in case.files)]
        try:
            return self.of(there)
        except DataError:
            return {case.case_id: self._read(case) for case in there if self._folder_of(case).exists()}

    def _write(self, case: Case, wait: bool) -> int | None:
        """Write a summary; the bytes of the image, or None where another process is at it and is not waited for."""
        size = 0

        def fill(folder: Path) -> None:
            nonlocal size
            image = self.source.read(case)
            size = image.pixels.nbytes
            summary = measuring.summarise(image, ignored_label=self.ignored_label)
            with writing(folder):
                (folder / _FILE).write_text(json.dumps(summary.as_plain()))

        return size if self._folders.make(self._folder_of(case), fill, wait=wait) else None

    def _read(self, case: Case) -> CaseSummary:
        folder = self._folder_of(case)
        try:
            return CaseSummary.from_plain(json.loads((folder / _FILE).read_text()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._folders.discard(folder)
            self._write(case, True)
            return CaseSummary.from_plain(json.loads((folder / _FILE).read_text()))

    def _folder_of(self, case: Case) -> Path:
        return self._folders.path({**self._key, "case": case.case_id, "content": self._contents[case.case_id]})


def _missing(case: Case, path: Path) -> Fault:
    return Fault(
        check="missing_file",
        case_id=case.case_id,
        file=path,
        expected="to be there",
        found="nothing under this name",
        remedy="restore it or remove the case",
    )
