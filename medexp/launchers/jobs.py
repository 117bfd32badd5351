"""A job of a study, and what every launcher makes of it in a process of its own."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from omegaconf import DictConfig

from medexp.core.errors import MedexpError, RunInterruptedError
from medexp.core.record import RunFolder, axes_name
from medexp.core.waiting import Waiting, read_waiting
from medexp.launchers.forks import redirect


@dataclass(frozen=True, eq=False)
class Job:
    """One run that is to be made.

    Attributes:
        config: Its finished configuration.
        folder: Where it is recorded.
        memory_mb: What it is expected to need of the device that computes, in 1e6 bytes; None where nothing is known.
    """

    config: DictConfig
    folder: RunFolder
    memory_mb: float | None = None

    @property
    def name(self) -> str:
        """The job's axes."""
        return axes_name(self.config.axes)

    def queue(self, waiting: Waiting) -> None:
        """Let the folder say what the job waits for, until its record begins."""
        waiting.write(self.folder.path)

    def note_failure(self, error: str) -> None:
        """Let the folder say why the job ended, unless its record has begun and says so itself."""
        waiting = read_waiting(self.folder.path)
        if waiting is not None:
            replace(waiting, error=error).write(self.folder.path)


@runtime_checkable
class Launcher(Protocol):
    """What runs the jobs of a study. What becomes of a job stands in its folder.

    Attributes:
        name: What the jobs' folders call it.
        here: Whether jobs run on this machine, so that what is measured here holds for them.
        pulls: Whether it takes a job only when it can start it, so that what the job is may depend on those that ended.
        at_once: How many jobs run at a time; None where that is up to somebody else.
    """

    name: str
    here: bool
    pulls: bool
    at_once: int | None

    def launch(self, jobs: Iterable[Job], *, tick: Callable[[], None]) -> None:
        """Run jobs until none is left.

        Args:
            jobs: Each is taken when there is room for it.
            tick: To be called every second or so, and when a job has ended.

        Raises:
            KeyboardInterrupt: It was asked to stop.
        """


def run_job(job: Job) -> int:
    """Train a job in this process, and let its folder say what became of it.

    Args:
        job: The job.

    Returns:
        An exit code.
    """
    try:
        from medexp.engine.fit import train

        train(job.config)
    except RunInterruptedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except MedexpError as error:
        print(error, file=sys.stderr)
        job.note_failure(f"{type(error).__name__}: {error}")
        return error.exit_code
    except Exception as error:
        traceback.print_exc()
        job.note_failure(f"{type(error).__name__}: {error}")
        return 1
    return 0


def run_in_folder(job: Job, folder: Path) -> int:
    """Train a job in a process that somebody else has started, with its output in its own file.

    Args:
        job: The job.
        folder: Working directory of the sweep.

    Returns:
        Its exit code.
    """
    os.chdir(folder)
    with redirect(job.folder.output):
        return run_job(job)
