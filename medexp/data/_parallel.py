"""Doing something for each case: alone while that is quick, then in processes; all failures are told at once."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from medexp.core.errors import DataError, MedexpError, UsageError
from medexp.core.faults import Fault
from medexp.core.hardware import available_cores, cgroup_memory_bytes, free_memory_bytes
from medexp.core.types import Case

LOGGER = logging.getLogger("medexp.data")
PROCESSES = "MEDEXP_PREPARE_PROCESSES"

# Returns the bytes that the case takes, or None where another run is at it and `wait` is false.
Work = Callable[[Case, bool], int | None]

# Processes need seconds to import torch; less work than that is done alone.
_ALONE_S = 2.0
_WORTH_S = 10.0
_CHUNK_S = 1.0
_TOLD_EVERY_S = 10.0
_LOOKED_EVERY_S = 1.0
# Torch itself, and the arrays that a case passes through between reading and writing.
_BYTES_OF_A_PROCESS = 6e8
_COPIES_OF_A_CASE = 8
_TOLD_FAULTS = 50


@dataclass(frozen=True)
class _Outcome:
    """What became of a case."""

    case: Case
    n_bytes: int | None = 0
    error: DataError | None = None


def for_each_case(work: Work, cases: Sequence[Case], *, doing: str) -> None:
    """Do something for each case, in as many processes as pay off and fit into memory.

    Args:
        work: What is done; a bound method is sent to the processes with its object.
        cases: The cases.
        doing: What it is called in messages.

    Raises:
        DataError: Tells what is wrong with each case that failed.
        MedexpError: It failed in a way that all cases share, or a process was killed.
    """
    tally = _Tally(doing, total=len(cases))
    left = list(reversed(cases))
    while left and not tally.wants_processes(len(left)):
        tally.add(_attempt(work, left.pop(), wait=False))
    if left:
        _in_processes(work, left[::-1], tally)
    elsewhere = tuple(tally.busy)
    if elsewhere:
        tally.tell(f"waiting for another run that is at {len(elsewhere)} of {tally.total} cases")
    for case in elsewhere:
        tally.add(_attempt(work, case, wait=True))
    tally.end([case.case_id for case in cases])


class _Tally:
    """What was done, what failed, and how long the rest will take."""

    def __init__(self, doing: str, *, total: int) -> None:
        self.doing = doing
        self.total = total
        self.done = 0
        self.busy: list[Case] = []
        self.failed: dict[str, DataError] = {}
        self.largest_bytes = 0
        self.begin_s = self._told_s = time.monotonic()
        self._told = False

    def add(self, outcome: _Outcome) -> None:
        """Count a case."""
        if outcome.error is not None:
            self.failed[outcome.case.case_id] = outcome.error
        elif outcome.n_bytes is None:
            self.busy.append(outcome.case)
            return
        else:
            self.largest_bytes = max(self.largest_bytes, outcome.n_bytes)
        self.done += 1
        if time.monotonic() - self._told_s > _TOLD_EVERY_S:
            left_s = self.seconds_each() * (self.total - self.done)
            self.tell(f"{self.done} of {self.total} cases, about {left_s:.0f} s left")

    def tell(self, what: str) -> None:
        """A line for the user."""
        self._told, self._told_s = True, time.monotonic()
        LOGGER.info("%s: %s", self.doing, what)

    def seconds_each(self) -> float:
        """Mean time of a case so far, by the clock on the wall."""
        return (time.monotonic() - self.begin_s) / max(self.done, 1)

    def wants_processes(self, left: int) -> bool:
        """Whether it goes on for so long that starting processes pays off."""
        took_s = time.monotonic() - self.begin_s
        return self.done > 0 and took_s >= _ALONE_S and self.seconds_each() * left >= _WORTH_S and self.processes() > 1

    def processes(self) -> int:
        """How many processes there are cores and memory for."""
        if PROCESSES in os.environ:
            return _positive(os.environ[PROCESSES])
        known = [memory for memory in (free_memory_bytes(), cgroup_memory_bytes()) if memory is not None]
        each = _BYTES_OF_A_PROCESS + _COPIES_OF_A_CASE * self.largest_bytes
        return available_cores() if not known else max(1, min(available_cores(), int(min(known) / each)))

    def end(self, order: Sequence[str]) -> None:
        """Say how long it took; DataError with what is wrong with all cases that failed, in order."""
        if self._told:
            self.tell(f"{self.done} cases in {time.monotonic() - self.begin_s:.0f} s")
        if not self.failed:
            return
        errors = [self.failed[case_id] for case_id in order if case_id in self.failed]
        lines = [str(error) for error in errors[:_TOLD_FAULTS]]
        if len(errors) > _TOLD_FAULTS:
            lines.append(f"and {len(errors) - _TOLD_FAULTS} more cases")
        error = DataError("\n".join(lines))
        error.faults = tuple(fault for one in errors for fault in one.faults)
        raise error


def _attempt(work: Work, case: Case, *, wait: bool) -> _Outcome:
    try:
        return _Outcome(case, n_bytes=work(case, wait))
    except DataError as error:
        return _Outcome(case, error=error)
    except MedexpError:
        raise  # wrong in all cases alike
    except Exception as error:
        LOGGER.debug("case %s failed: %s", case.case_id, traceback.format_exc())
        fault = Fault(
            check="unreadable",
            expected="files that can be read and prepared",
            found=f"{type(error).__name__}: {error}",
            remedy="see log.txt for where it happened, and mend the file or its reader",
            case_id=case.case_id,
        )
        return _Outcome(case, error=DataError.of(fault))


def _in_processes(work: Work, cases: Sequence[Case], tally: _Tally) -> None:
    # joblib's processes import neither the user's script, which may lack a guard, nor fork torch's threads.
    from joblib.externals.loky import ProcessPoolExecutor

    count = min(tally.processes(), len(cases))
    tally.tell(f"{len(cases)} of {tally.total} cases to go, with {count} processes")
    size = max(1, min(int(_CHUNK_S / tally.seconds_each()), len(cases) // (4 * count)))
    chunks = [cases[first : first + size] for first in range(0, len(cases), size)]
    executor = ProcessPoolExecutor(count, initializer=_begin, initargs=(work,), env={"OMP_NUM_THREADS": "1"})
    try:
        for future in [executor.submit(_attempt_here, chunk) for chunk in chunks]:
            for outcome in future.result():
                tally.add(outcome)
    except BrokenProcessPool as error:
        raise MedexpError(
            f"{tally.doing}: one of {count} processes was killed, perhaps for lack of memory; give fewer with "
            f"{PROCESSES}=1 in the environment, what is done is kept"
        ) from error
    finally:
        executor.shutdown(wait=True, kill_workers=True)


# What the process does with each case it is sent.
_work_here: list[Work] = []


def _begin(work: Work) -> None:
    """Set a process up; Ctrl-C reaches all processes, and the first one ends the others."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _work_here[:] = [work]


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, which could not end it if it was killed."""
    while os.getppid() == parent:
        time.sleep(_LOOKED_EVERY_S)
    os._exit(1)


def _attempt_here(cases: Sequence[Case]) -> list[_Outcome]:
    return [_attempt(_work_here[0], case, wait=False) for case in cases]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"{PROCESSES} needs a whole number from 1 on, got {text}")
    return int(text)
