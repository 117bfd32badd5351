"""Jobs on this machine, each in a process of its own."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from omegaconf import DictConfig

from medexp.core.errors import UsageError
from medexp.core.waiting import Waiting, read_waiting
from medexp.launchers.forks import Fork, wait_for
from medexp.launchers.gpus import Gpu, Room, chosen_gpus, visible_gpus
from medexp.launchers.jobs import Job, run_job

_TICK_S = 1.0
_ON_GPU = ("auto", "gpu", "cuda")


@dataclass(eq=False)
class _Running:
    """A job that runs."""

    job: Job
    fork: Fork
    taken: dict[int, float]
    begun_s: float
    asked_s: float | None = None

    def stop(self, *, at_once: bool = False) -> None:
        """Ask the job to save and stop, or end it."""
        if self.asked_s is None:
            self.asked_s = time.monotonic()
        self.fork.send(signal.SIGKILL if at_once else signal.SIGTERM)


class Local:
    """Runs jobs on this machine, so many at a time; none of them can take another one down.

    Where there are GPUs, each job sees only those that it was given. Ctrl-C once lets the running jobs save and stop,
    twice ends them.

    Args:
        n_jobs: Jobs at a time; "auto": as many as the GPUs have room for, one where there is none.
        gpus: Numbers of the GPUs that may be used; "auto": all that are visible.
        jobs_per_gpu: Jobs that may share a GPU; "auto": as many as fit by what they are expected to need.
        time_limit_min: Minutes after which a job is asked to save and stop; None for no limit.
        grace_s: Seconds that it may take for that before it is killed.

    Raises:
        UsageError: A number is not above 0, or a GPU is not there.
    """

    name = "local"
    here = True
    pulls = True

    def __init__(
        self,
        *,
        n_jobs: int | str,
        gpus: Sequence[int] | str,
        jobs_per_gpu: int | str,
        time_limit_min: int | float | None,
        grace_s: int | float,
    ) -> None:
        for key, value in (("n_jobs", n_jobs), ("jobs_per_gpu", jobs_per_gpu)):
            if value != "auto" and not (isinstance(value, int) and value > 0):
                raise UsageError(f"launcher.{key} needs auto or a whole number from 1 on, got {value!r}")
        if time_limit_min is not None and not time_limit_min > 0:
            raise UsageError(f"launcher.time_limit_min needs null or a number above 0, got {time_limit_min}")
        if grace_s < 0:
            raise UsageError(f"launcher.grace_s needs a number from 0 on, got {grace_s}")
        self.gpus: list[Gpu] = chosen_gpus(visible_gpus(), gpus)
        self.at_once: int | None = n_jobs if isinstance(n_jobs, int) else (None if self.gpus else 1)
        self.time_limit_s = None if time_limit_min is None else 60.0 * time_limit_min
        self.grace_s = grace_s
        self._room = Room(self.gpus, jobs_per_gpu=jobs_per_gpu if isinstance(jobs_per_gpu, int) else None)
        self._asked = 0

    def launch(self, jobs: Iterable[Job], *, tick: Callable[[], None]) -> None:
        """Run jobs until none is left, see `Launcher`."""
        running: list[_Running] = []
        waiting, following = iter(jobs), None
        with self._listening(running):
            try:
                while True:
                    # Not one too early: what the next job is may hang on how those before it ended.
                    while not self._asked and self._has_place(running):
                        following = following or next(waiting, None)
                        if following is None or not self._start(following, running):
                            break
                        following = None
                    if not running:
                        break
                    tick()
                    wait_for([each.fork for each in running], timeout_s=_TICK_S)
                    self._reap(running)
            finally:
                for each in running:
                    each.stop(at_once=True)
        tick()
        if self._asked:
            raise KeyboardInterrupt("stopped; running jobs have saved their state")

    def _has_place(self, running: list[_Running]) -> bool:
        """Whether there may be room for another job."""
        if self.at_once is not None and len(running) >= self.at_once:
            return False
        return not self.gpus or self._room.is_left

    def _start(self, job: Job, running: list[_Running]) -> bool:
        """Start a job if there is room for it."""
        taken: dict[int, float] | None = {}
        variables = {}
        if self.gpus and (devices := _gpus_of(job.config, len(self.gpus))):
            taken = self._room.take(devices=devices, memory_mb=job.memory_mb)
            variables = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, taken or ()))}
        if taken is None:
            return False
        job.queue(Waiting.here(dict(job.config.axes), self.name))
        fork = Fork(run_job, (job,), environment=variables, output=job.folder.output)
        running.append(_Running(job, fork, taken, begun_s=time.monotonic()))
        return True

    def _reap(self, running: list[_Running]) -> None:
        """Take leave of jobs that have ended, and stop those that are over their time."""
        now_s = time.monotonic()
        for each in list(running):
            if each.fork.exit_code is not None:
                each.fork.end()
                running.remove(each)
                self._room.give_back(each.taken)
                _note_end(each)
            elif each.asked_s is not None and now_s - each.asked_s > self.grace_s:
                each.stop(at_once=True)
            elif self.time_limit_s is not None and each.asked_s is None and now_s - each.begun_s > self.time_limit_s:
                print(f"{each.job.name}: over launcher.time_limit_min; it saves and stops", file=sys.stderr, flush=True)
                each.stop()

    @contextmanager
    def _listening(self, running: list[_Running]) -> Iterator[None]:
        """Pass Ctrl-C and SIGTERM on to the jobs: once to save and stop, twice to end; the main thread's alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: FrameType | None) -> None:
            self._asked += 1
            if self._asked == 1 and running:
                print("stopping: running jobs save their state; once more ends them", file=sys.stderr, flush=True)
            for each in list(running):
                each.stop(at_once=self._asked > 1)

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _gpus_of(config: DictConfig, available: int) -> int:
    """How many GPUs a job wants, which must be a number of those that are given out here."""
    if config.trainer.accelerator not in _ON_GPU:
        return 0
    devices = config.trainer.devices
    if devices == "auto":
        return available
    if not isinstance(devices, int):
        raise UsageError(f"trainer.devices={list(devices)} names GPUs, which launcher=local gives out; give a number")
    if devices > available:
        raise UsageError(f"trainer.devices={devices}, and the launcher may use {available} GPUs")
    return devices


def _note_end(ended: _Running) -> None:
    """Let the folder of a job that was killed before its record began say so."""
    code = ended.fork.exit_code
    waiting = read_waiting(ended.job.folder.path)
    if waiting is None or waiting.error is not None or not code:
        return
    if code < 0:
        ended.job.note_failure(f"ended by {signal.Signals(-code).name} before it began")
    else:
        ended.job.note_failure(f"ended with exit code {code} before it began; see {ended.job.folder.output.name}")
