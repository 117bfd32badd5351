"""Jobs on a Slurm cluster, as an array that submitit submits."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from medexp.core.errors import UsageError
from medexp.core.record import now
from medexp.core.waiting import Waiting, read_waiting
from medexp.launchers.jobs import Job, run_job

# What a cluster's controller may need to answer.
_PATIENCE_S = 60
_NAME = "medexp"


class Slurm:
    """Runs jobs as an array of a Slurm cluster. The same record and status as elsewhere.

    A job that is about to run out of time, or that is preempted, saves its state and is queued again, where it goes on.
    Jobs that wait in the queue already are not submitted twice.

    Args:
        partition: Partition; None for the default.
        time_min: Minutes of a job, before it is queued again.
        gpus_per_node: GPUs of a job on each node.
        cpus_per_task: Cores of each process.
        mem_gb: Memory in 1e9 bytes; None for the cluster's default.
        nodes: Nodes of a job.
        tasks_per_node: Processes of a job on each node.
        at_once: Jobs of the array that may run at a time.
        warning_s: Seconds before the end at which a job is told to save.
        max_requeues: How often a job is queued again.
        setup: Lines of shell before the job.
        additional: Further options of sbatch.
        wait: Stay until all jobs have ended.
        poll_s: Seconds between two looks at the queue.

    Raises:
        UsageError: There is no Slurm here, or submitit is not installed.
    """

    name = "slurm"
    pulls = False
    here = False

    def __init__(
        self,
        *,
        partition: str | None,
        time_min: int,
        gpus_per_node: int,
        cpus_per_task: int,
        mem_gb: int | float | None,
        nodes: int,
        tasks_per_node: int,
        at_once: int,
        warning_s: int,
        max_requeues: int,
        setup: Sequence[str],
        additional: Mapping[str, Any],
        wait: bool,
        poll_s: int | float,
    ) -> None:
        if shutil.which("sbatch") is None:
            raise UsageError("launcher=slurm needs sbatch, which is not here; run this on a machine that submits jobs")
        if not poll_s > 0:
            raise UsageError(f"launcher.poll_s needs a number above 0, got {poll_s}")
        self.at_once: int | None = at_once
        self.wait = wait
        self.poll_s = poll_s
        self.max_requeues = max_requeues
        wanted = {
            "slurm_partition": partition,
            "timeout_min": time_min,
            "gpus_per_node": gpus_per_node or None,
            "cpus_per_task": cpus_per_task,
            "mem_gb": mem_gb,
            "nodes": nodes,
            "tasks_per_node": tasks_per_node,
            "slurm_array_parallelism": at_once,
            "slurm_signal_delay_s": warning_s,
            "slurm_setup": list(setup) or None,
            "slurm_additional_parameters": dict(additional) or None,
            "slurm_job_name": _NAME,
        }
        self._parameters = {name: value for name, value in wanted.items() if value is not None}

    def launch(self, jobs: Iterable[Job], *, tick: Callable[[], None]) -> None:
        """Submit the jobs that are not in the queue yet, and wait for all of them, see `Launcher`."""
        held = queued_ids()
        all_jobs, ids = list(jobs), set()
        new = []
        for job in all_jobs:
            waiting = read_waiting(job.folder.path)
            if waiting is not None and waiting.launcher == self.name and waiting.id in held:
                ids.add(waiting.id)
            else:
                new.append(job)
        if new:
            ids |= self._submit(new)
        try:
            self._watch(ids, tick)
        except KeyboardInterrupt:
            print("the cluster goes on with the jobs; medexp status shows them, scancel ends them", file=sys.stderr)
            raise

    def _submit(self, jobs: Sequence[Job]) -> set[str]:
        """Submit an array, and let each folder say what it waits for."""
        folder = jobs[0].folder.path.parent / "slurm"
        executor = _submitit().AutoExecutor(
            folder=str(folder), cluster="slurm", slurm_max_num_timeout=self.max_requeues
        )
        executor.update_parameters(**self._parameters)
        for job in jobs:
            job.queue(Waiting.here(dict(job.config.axes), self.name))
        submitted = executor.map_array(OnNode(), jobs)
        for job, handle in zip(jobs, submitted, strict=True):
            if read_waiting(job.folder.path) is not None:  # a job that has begun waits no more
                job.queue(Waiting(dict(job.config.axes), self.name, handle.job_id, now()))
        print(f"submitted as {submitted[0].job_id.split('_')[0]}; output in {folder}", flush=True)
        return {handle.job_id for handle in submitted}

    def _watch(self, ids: set[str], tick: Callable[[], None]) -> None:
        while self.wait and ids & queued_ids():
            tick()
            time.sleep(self.poll_s)
        tick()


class OnNode:
    """What submitit calls on a node, and what it calls again where the job was queued again."""

    def __call__(self, job: Job) -> int:
        """Train a job; one that was told to save is queued again.

        Args:
            job: The job.

        Returns:
            Its exit code.
        """
        told: list[int] = []
        process, before, plain_end = os.getpid(), signal.getsignal(signal.SIGUSR2), signal.getsignal(signal.SIGTERM)

        def save(number: int, frame: FrameType | None) -> None:
            # While it trains a job saves at the next batch, where submitit would end it at once; what loads its
            # batches gets the signal, too.
            if os.getpid() != process:
                return
            told.append(number)
            if signal.getsignal(signal.SIGTERM) is not plain_end:
                os.kill(process, signal.SIGTERM)
            elif callable(before):
                before(number, frame)

        signal.signal(signal.SIGUSR2, save)
        try:
            code = run_job(job)
        finally:
            signal.signal(signal.SIGUSR2, before)
        if told and code:
            job.queue(Waiting(dict(job.config.axes), Slurm.name, own_id(), now()))
            os.kill(process, signal.SIGUSR2)  # submitit queues the job again
        return code

    def checkpoint(self, job: Job) -> Any:
        """What submitit runs when the job comes to its turn again: the same, which resumes."""
        return _submitit().helpers.DelayedSubmission(self, job)


def queued_ids() -> set[str]:
    """Ids of this user's jobs of medexp that wait or run, `JOB_TASK` for a task of an array.

    Returns:
        The ids.

    Raises:
        UsageError: The cluster does not answer.
    """
    command = ["squeue", "--noheader", "--array", f"--user={getpass.getuser()}", f"--name={_NAME}", "--format=%i"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"Slurm does not answer ({' '.join(command[:1])}: {error}); try again when it does") from None
    return set(told.split())


def own_id() -> str:
    """Id of the job that this process is."""
    environment = os.environ
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment["SLURM_JOB_ID"]


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise UsageError("launcher=slurm needs submitit; install it with pip install 'medexp[cluster]'") from None
    return submitit
