"""Reading all cases of a source for their measurements, in several processes where that pays."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from medexp.core.errors import DataError
from medexp.core.faults import Fault, Severity
from medexp.core.hardware import available_cores, free_memory_bytes
from medexp.core.types import Case, Source
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import original
from medexp.data.integrity.files import image_file
from medexp.data.integrity.measurement import Measurement, measure
from medexp.data.integrity.store import Store

LOGGER = logging.getLogger("medexp.data")

Found = Measurement | tuple[Fault, ...]
Progress = Callable[[int, int], None]

# A process takes a second to start; it is worth that once so much was spent alone and so much is left.
_SPENT_S, _LEFT_S = 1.0, 4.0
_AT_ONCE = 8
_SAVE_EVERY_S = 60.0
_TELL_EVERY_S = 10.0
# What a process takes itself, and how many arrays of its size a case goes through.
_BYTES_OF_A_PROCESS, _COPIES_OF_A_CASE = 3e8, 6


class CaseReader:
    """Measures cases that are not known yet.

    Args:
        source: Reads the cases.
        store: What is known of them; None reads every case.
        processes: How many read together; None: as many as there are cores and memory for, once it pays.
        progress: Is told how many of how many cases are read.

    Attributes:
        n_read: Cases that were read.
    """

    def __init__(
        self, source: Source, *, store: Store | None, processes: int | None, progress: Progress | None
    ) -> None:
        self.source = source
        self.store = store
        self.processes = processes
        self.progress = progress
        self.n_read = 0

    def measured(self, cases: Sequence[Case]) -> list[Found]:
        """The measurement of each case, or its faults; of a case that was listed with errors no further ones."""
        found: dict[int, Found] = {place: () for place, case in enumerate(cases) if _was_listed_wrongly(case)}
        wanted = {place: case for place, case in enumerate(cases) if place not in found}
        found |= self._known(wanted)
        if len(found) < len(cases):
            with nullcontext() if self.store is None else self.store.lock():
                found |= self._known(wanted)  # another process may have read them meanwhile
                found |= self._read({place: case for place, case in wanted.items() if place not in found})
        return [found[place] for place in range(len(cases))]

    def _known(self, cases: Mapping[int, Case]) -> dict[int, Found]:
        if self.store is None:
            return {}
        known = zip(cases, self.store.find(list(cases.values())), strict=True)
        return {place: seen for place, seen in known if seen is not None}

    def _read(self, cases: Mapping[int, Case]) -> dict[int, Found]:
        found: dict[int, Found] = {}
        fresh: list[tuple[Case, Measurement]] = []
        saved = told = time.monotonic()
        reading = read_all(self.source, list(cases.values()), processes=self.processes)
        for place, seen in zip(cases, reading, strict=True):
            found[place] = seen
            now, is_last = time.monotonic(), len(found) == len(cases)
            if isinstance(seen, Measurement):
                fresh.append((cases[place], seen))
            if self.progress is not None:
                self.progress(len(found), len(cases))
            if now - told > _TELL_EVERY_S:
                LOGGER.info("checking the data: %d of %d cases read", len(found), len(cases))
                told = now
            if self.store is not None and fresh and (is_last or now - saved > _SAVE_EVERY_S):
                self.store.add(fresh)
                saved, fresh = now, []
        self.n_read += len(found)
        return found


def _was_listed_wrongly(case: Case) -> bool:
    return any(one.severity is Severity.ERROR for one in case.faults)


def read_all(source: Source, cases: Sequence[Case], *, processes: int | None = None) -> Iterator[Found]:
    """The measurement of each case, or the faults that reading it told.

    Args:
        source: Reads them.
        cases: Which.
        processes: How many read together; None: as many as there are cores and memory for, once it pays.

    Yields:
        What was found, in the order of the cases.
    """
    start, done, largest = time.monotonic(), 0, 0
    for done, case in enumerate(cases, start=1):
        found = _read(source, case)
        yield found
        largest = max(largest, _bytes(found))
        spent = time.monotonic() - start
        pays = spent > _SPENT_S and spent / done * (len(cases) - done) > _LEFT_S
        if (processes or 0) > 1 or (processes is None and pays):
            break
    yield from _read_together(source, cases[done:], processes=processes or _fitting(largest))


def faults_of(error: Exception, case: Case) -> tuple[Fault, ...]:
    """What an error of a source says of a case, as faults.

    Args:
        error: A DataError, or whatever the reader let through.
        case: The case that was read.

    Returns:
        The faults that it carries; without any, one fault that quotes it.
    """
    carried = error.faults if isinstance(error, DataError) else ()
    if carried:
        return tuple(one if one.case_id else replace(one, case_id=case.case_id) for one in carried)
    if isinstance(error, DataError):
        found, _, remedy = str(error).removeprefix(f"case {case.case_id}").lstrip(",: ").rpartition("; ")
        return (_unreadable(case, found or remedy, remedy if found else "repair the file, or remove the case"),)
    remedy = "repair the files, or remove the case; where they are sound, the reader of this dataset has an error"
    return (_unreadable(case, f"{type(error).__name__}: {error}", remedy),)


def _unreadable(case: Case, found: str, remedy: str) -> Fault:
    named = next((path for path in case.files if str(path) in found), image_file(case))
    return fault("unreadable", case=case, file=named, expected="to be read", found=f"an error: {found}", remedy=remedy)


def _read(source: Source, case: Case) -> Found:
    try:
        own = original(source)
        derived = None if own is source else source.read(case).annotation
        return measure(own.read(case), derived=derived, listed_faults=case.faults)
    except Exception as error:  # one reader's error must not hide what is wrong with other cases
        return faults_of(error, case)


def _bytes(found: Found) -> int:
    return 4 * math.prod(found.shape) * len(found.channels) if isinstance(found, Measurement) else 0


def _fitting(largest: int) -> int:
    """Processes that there are cores and memory for."""
    free = free_memory_bytes()
    each = _BYTES_OF_A_PROCESS + _COPIES_OF_A_CASE * largest
    return available_cores() if free is None else max(1, min(available_cores(), int(free / each)))


def _read_together(source: Source, cases: Sequence[Case], *, processes: int) -> Iterator[Found]:
    """The same in several processes; a case that kills its process has a fault, and the others are read."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    done = 0
    while done < len(cases):
        try:
            with _pool(source, min(processes, len(cases) - done)) as pool:
                for found in pool.map(_read_here, cases[done:], chunksize=_AT_ONCE):
                    done += 1
                    yield found
        except BrokenProcessPool:
            for found in _read_apart(source, cases[done : done + _AT_ONCE * processes]):
                done += 1
                yield found


def _read_apart(source: Source, cases: Sequence[Case]) -> Iterator[Found]:
    """One case after the other in another process, until the one is found that kills it."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    with _pool(source, 1) as pool:
        for case in cases:
            try:
                yield pool.submit(_read_here, case).result()
            except BrokenProcessPool:
                remedy = "look whether memory is short, or a file is damaged"
                yield (_unreadable(case, "the process that read it was killed", remedy),)
                return


@contextmanager
def _pool(source: Source, processes: int) -> Iterator[Any]:
    # joblib's processes neither import the user's script, which may lack a guard, nor inherit threads and locks.
    from joblib.externals.loky import ProcessPoolExecutor

    pool = ProcessPoolExecutor(processes, initializer=_keep, initargs=(source,), env={"OMP_NUM_THREADS": "1"})
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, kill_workers=True)


# What a process reads from.
_source_here: list[Source] = []


def _keep(source: Source) -> None:
    _source_here[:] = [source]


def _read_here(case: Case) -> Found:
    return _read(_source_here[0], case)
