"""Jobs in joblib's pool of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from joblib import Parallel, cpu_count, delayed

from medexp.core.errors import UsageError
from medexp.core.waiting import Waiting, read_waiting
from medexp.launchers.jobs import Job, run_in_folder


class Joblib:
    """Runs jobs in joblib's processes. The same record and status as elsewhere.

    A process that is killed takes joblib's pool with it. The jobs that had not begun are then given to a new pool;
    those that ran beside it are told as killed, and the same command resumes them.

    Args:
        n_jobs: Processes; -1 for one a core.
        backend: Of joblib.

    Raises:
        UsageError: `n_jobs` is 0.
    """

    name = "joblib"
    pulls = False
    here = True

    def __init__(self, *, n_jobs: int, backend: str) -> None:
        if n_jobs == 0:
            raise UsageError("launcher.n_jobs needs a number of processes, or -1 for one a core, got 0")
        self.at_once: int | None = n_jobs if n_jobs > 0 else max(1, cpu_count() + 1 + n_jobs)
        self.backend = backend

    def launch(self, jobs: Iterable[Job], *, tick: Callable[[], None]) -> None:
        """Run jobs until none is left, see `Launcher`."""
        left = list(jobs)
        for job in left:
            job.queue(Waiting.here(dict(job.config.axes), self.name))
        while left:
            try:
                for _ in self._results(left):
                    tick()
                break
            except Exception as error:
                waiting = [job for job in left if _waits(job)]
                if len(waiting) == len(left):
                    raise UsageError(f"joblib ran none of the jobs: {type(error).__name__}: {error}") from error
                left = waiting
        tick()

    def _results(self, jobs: Sequence[Job]) -> Iterable[int]:
        pool = Parallel(n_jobs=self.at_once, backend=self.backend, return_as="generator_unordered", batch_size=1)
        results: Iterable[int] = pool(delayed(run_in_folder)(job, Path.cwd()) for job in jobs)
        return results


def _waits(job: Job) -> bool:
    waiting = read_waiting(job.folder.path)
    return waiting is not None and waiting.error is None
