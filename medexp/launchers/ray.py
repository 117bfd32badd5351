"""Jobs on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from medexp.core.errors import UsageError
from medexp.core.waiting import Waiting
from medexp.launchers.jobs import Job, run_in_folder

_TICK_S = 1.0


class Ray:
    """Runs jobs as tasks of Ray, each in a process of its own. The same record and status as elsewhere.

    The machines of a cluster need the same folders (paths.runs, the data) and the same installation.

    Args:
        address: Of a cluster; None starts one on this machine, which ends with the study.
        cpus_per_job: Cores that Ray reserves for a job.
        gpus_per_job: GPUs that Ray reserves for a job, and that it sees; a fraction is shared.

    Raises:
        UsageError: Ray is not installed.
    """

    name = "ray"
    pulls = False

    def __init__(self, *, address: str | None, cpus_per_job: int | float, gpus_per_job: int | float) -> None:
        _ray()
        self.address = address
        self.here = address is None
        self.at_once: int | None = None
        self._resources = {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job}

    def launch(self, jobs: Iterable[Job], *, tick: Callable[[], None]) -> None:
        """Run jobs until none is left, see `Launcher`."""
        ray = _ray()
        ray.init(address=self.address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            # A process serves one job, so that nothing of it is left for the next.
            task = ray.remote(**self._resources, max_retries=0, max_calls=1)(run_in_folder)
            running = {}
            for job in jobs:
                job.queue(Waiting.here(dict(job.config.axes), self.name))
                running[task.remote(job, Path.cwd())] = job
            while running:
                ended, _ = ray.wait(list(running), timeout=_TICK_S)
                for handle in ended:
                    _note_end(ray, handle, running.pop(handle))
                tick()
        finally:
            ray.shutdown()


def _note_end(ray: Any, handle: Any, job: Job) -> None:
    """Let the folder of a job whose process died before its record began say so."""
    try:
        ray.get(handle)
    except ray.exceptions.RayError as error:
        job.note_failure(f"{type(error).__name__}: {str(error).splitlines()[0]}")


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UsageError("launcher=ray needs Ray; install it with pip install 'medexp[ray]'") from None
    return ray
