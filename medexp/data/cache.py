"""Prepared cases on disk: computed once per content, shared by all runs, read by patch without loading the volume."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.hashing import hash_plain
from medexp.core.types import Case, Source
from medexp.data._code import code_of
from medexp.data._file_hashes import FileHashes
from medexp.data._folders import ComputedFolders, writing
from medexp.data._intensities import foreground_intensities
from medexp.data._parallel import for_each_case
from medexp.data._prepared_files import layers_of, read_case, write_case
from medexp.data.preprocessing import Prepared, Preprocessing

_HASHES = "file_hashes.sqlite"
_INTENSITIES = "intensities.npy"
# Opening three mapped files costs more than cutting a small patch, so that many bytes of cases stay in memory,
_KEPT_BYTES = 2**29
# and of the others that many stay open: each takes up to four of the 1,024 files that a process may have.
_OPEN_CASES = 64

Loaded = tuple[Prepared, np.ndarray]
_Read = TypeVar("_Read")


class PreparedCases:
    """Cases on the network's grid: in memory as far as they fit into half a gigabyte, else in memory-mapped files.

    Each case lies in a folder of its own, which appears when it is complete and is computed by one process alone. Its
    name is a hash of all that decides it: the files' bytes and what a table says of the case, the source's
    configuration, the preprocessing with the numbers that it took from the training cases, and the code of both. A
    folder whose files are damaged is computed again.

    Args:
        folder: Where the prepared cases lie.
        source: Reads a case.
        preprocessing: Prepares it.
        identity: What decides a prepared case beside its files and the preprocessing: the source's configuration.
        training: The cases from which the preprocessing may take numbers, such as a scale of intensities.
    """

    def __init__(
        self,
        *,
        folder: Path,
        source: Source,
        preprocessing: Preprocessing,
        identity: str,
        training: Sequence[Case] = (),
    ) -> None:
        self.folder = folder
        self.source = source
        self.preprocessing = preprocessing
        self.identity = identity
        self.training = tuple(training)
        self._folders = ComputedFolders(folder)
        self._hashes = FileHashes(folder / _HASHES)
        self._code = code_of(source, preprocessing.normalisation)
        self._contents: dict[str, str] = {}
        self._memory = _Memory()

    def __getstate__(self) -> dict[str, Any]:
        # A process that is sent this object maps the files itself; the arrays stay here, and what was needed once.
        training = () if "fitted" in self.__dict__ else self.training
        return {**self.__dict__, "_memory": _Memory(), "training": training}

    def content_hash(self, case: Case) -> str:
        """Hash of the bytes of all files of a case and of what a table says of it."""
        if case.case_id not in self._contents:
            self.content_hashes([case])
        return self._contents[case.case_id]

    def content_hashes(self, cases: Sequence[Case]) -> dict[str, str]:
        """The content hash of each case, by its id; DataError with all files that cannot be read."""
        new = [case for case in cases if case.case_id not in self._contents]
        absent = [_missing(case, path) for case in new for path in case.files if not _is_readable(path)]
        if absent:
            raise DataError.of(*absent)
        hashes = self._hashes.of([path for case in new for path in case.files])
        for case in new:
            files = [hashes[path] for path in case.files]
            self._contents[case.case_id] = hash_plain([*files, dict(case.facts)] if case.facts else files)
        return {case.case_id: self._contents[case.case_id] for case in cases}

    @cached_property
    def fitted(self) -> Preprocessing:
        """The preprocessing with what it takes from the training cases."""
        return self.preprocessing.fit(channels=tuple(self.source.channels), foreground=self._foreground)

    def prepare(self, cases: Sequence[Case]) -> None:
        """Compute what is missing of these cases, in processes where that is quicker, and load what fits into memory.

        Args:
            cases: The cases, those first that should be in memory.

        Raises:
            DataError: Tells what is wrong with each case that cannot be prepared.
        """
        self.content_hashes(cases)
        absent = [case for case in cases if not self._folder_of(case).exists()]
        for_each_case(self._prepare, absent, doing="preparing")
        for case in cases:
            if self._memory.is_full:
                break
            self.load(case)

    def load(self, case: Case) -> Loaded:
        """One prepared case and positions of foreground voxels, rows of (label id, *index)."""
        found = self._memory.get(case.case_id)
        if found is None:
            self._prepare(case, True)
            found = self._memory.keep(case.case_id, self._read(case))
        return found

    def _prepare(self, case: Case, wait: bool) -> int | None:
        """Write a prepared case; the bytes of its pixels, or None where another run is at it and is not waited for."""
        size = 0

        def fill(folder: Path) -> None:
            nonlocal size
            prepared = self.fitted(self.source.read(case))
            size = prepared.pixels.nbytes
            write_case(folder, prepared)

        return size if self._folders.make(self._folder_of(case), fill, wait=wait) else None

    def _read(self, case: Case) -> Loaded:
        return self._mended(self._folder_of(case), read_case, partial(self._prepare, case, True))

    def _mended(self, folder: Path, read: Callable[[Path], _Read], make: Callable[[], object]) -> _Read:
        """What a folder holds; where its files are damaged they are made again."""
        try:
            return read(folder)
        except (FileNotFoundError, EOFError, ValueError, KeyError):
            self._folders.discard(folder)
            make()
            return read(folder)

    def _foreground(self) -> tuple[np.ndarray, ...]:
        """Intensities of the training cases, a channel each."""
        self.content_hashes(self.training)
        absent = [case for case in self.training if not self._intensities_of(case).exists()]
        for_each_case(self._sample, absent, doing="measuring intensities")
        samples = [
            self._mended(self._intensities_of(case), _read_intensities, partial(self._sample, case, True))
            for case in self.training
        ]
        return tuple(np.concatenate(channels) for channels in zip(*samples, strict=True))

    def _sample(self, case: Case, wait: bool) -> int | None:
        """Write intensities of a case; the bytes of its pixels, or None as `_prepare`."""
        size = 0

        def fill(folder: Path) -> None:
            nonlocal size
            image = self.source.read(case)
            size = image.pixels.nbytes
            intensities = foreground_intensities(image)
            with writing(folder):
                np.save(folder / _INTENSITIES, intensities)

        return size if self._folders.make(self._intensities_of(case), fill, wait=wait) else None

    def _folder_of(self, case: Case) -> Path:
        return self._folders.path({**self._key(case), "preprocessing": self._knobs})

    def _intensities_of(self, case: Case) -> Path:
        return self._folders.path({**self._key(case), "what": "intensities"})

    @cached_property
    def _knobs(self) -> str:
        return hash_plain(self.fitted.knobs())

    def _key(self, case: Case) -> dict[str, str]:
        return {"case": case.case_id, "files": self.content_hash(case), "source": self.identity, "code": self._code}


class _Memory:
    """Cases that were loaded: copies as far as they fit, of the others those open that were used last."""

    def __init__(self) -> None:
        self._copies: dict[str, Loaded] = {}
        self._bytes = 0
        self._open: OrderedDict[str, Loaded] = OrderedDict()
        self.is_full = False

    def get(self, case_id: str) -> Loaded | None:
        """A case that is in memory or open."""
        if case_id in self._open:
            self._open.move_to_end(case_id)
            return self._open[case_id]
        return self._copies.get(case_id)

    def keep(self, case_id: str, loaded: Loaded) -> Loaded:
        """The case as it is kept."""
        prepared, foreground = loaded
        layers = layers_of(prepared.annotation)
        needed = sum(array.nbytes for array in (prepared.pixels, foreground, *layers.values()))
        if self._bytes + needed > _KEPT_BYTES:
            self.is_full = True
            self._open[case_id] = loaded
            if len(self._open) > _OPEN_CASES:
                self._open.popitem(last=False)
            return loaded
        in_layers: dict[str, Any] = {name: _in_memory(layer) for name, layer in layers.items()}
        annotation = replace(prepared.annotation, **in_layers)
        copied = replace(prepared, pixels=_in_memory(prepared.pixels), annotation=annotation)
        self._copies[case_id] = copied, _in_memory(foreground)
        self._bytes += needed
        return self._copies[case_id]


def _in_memory(mapped: np.ndarray) -> np.ndarray:
    """A copy that, like the mapped file, cannot be written to."""
    copy = np.array(mapped)
    copy.flags.writeable = False
    return copy


def _read_intensities(folder: Path) -> np.ndarray:
    found: np.ndarray = np.load(folder / _INTENSITIES, allow_pickle=False)
    return found


def _is_readable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.R_OK)


def _missing(case: Case, path: Path) -> Fault:
    return Fault(
        check="missing_file",
        expected="to be a file that can be read",
        found="one without permission" if path.is_file() else "nothing under this name",
        remedy="restore it or remove the case",
        case_id=case.case_id,
        file=path,
    )
