"""The jobs of a study: looked at first, then handed to a launcher, then told by their records."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from medexp.cli.board import Board
from medexp.cli.console import console
from medexp.cli.overrides import Sweep
from medexp.cli.preflight import Finding, preflight, show, with_memory
from medexp.compare.status import FAILED, FINISHED, read_run
from medexp.core.config import is_place
from medexp.core.errors import MedexpError, UsageError
from medexp.core.hardware import available_cores
from medexp.core.instantiate import instantiate
from medexp.core.record import run_folder
from medexp.engine.study import Study
from medexp.launchers.jobs import Job, Launcher

OFF = ("off", False)


def run_sweep(sweep: Sweep, configs: Sequence[DictConfig]) -> int:
    """Look at all jobs, and run what is left of them.

    Args:
        sweep: What describes them.
        configs: The finished configuration of each.

    Returns:
        0 if all jobs are done, else 1.

    Raises:
        UsageError: Two jobs would share a folder, or one cannot be built.
        MedexpError: A job failed when a step of it was tried.
        KeyboardInterrupt: It was asked to stop.
    """
    jobs = [Job(config, run_folder(Path(config.paths.runs), config.study, config.axes)) for config in configs]
    _check_distinct(sweep, jobs)
    launcher = launcher_of(configs)
    pin_threads(configs, launcher)
    study = configs[0].study
    print(f"study {study}: {_jobs(len(jobs))}", flush=True)
    queued = _looked_at(jobs, launcher)
    board = Board([job.folder for job in jobs], console=console())
    with board:
        launcher.launch(queued, tick=board.tick)
    return _told(jobs, study)


def launcher_of(configs: Sequence[DictConfig]) -> Launcher:
    """What runs the jobs."""
    launcher: Launcher = instantiate(configs[0].launcher, "launcher")
    return launcher


def pin_threads(configs: Sequence[DictConfig], launcher: Launcher) -> None:
    """Jobs that run side by side share the cores of this machine."""
    if not launcher.here or launcher.at_once in (None, 1):
        return
    share = max(1, available_cores() // launcher.at_once)
    for config in configs:
        if config.threads == "auto":
            study = Study(Path(config.paths.runs), config.study)
            study.pin("threads", lambda: (share, f"an equal share of the cores for {launcher.at_once} jobs at a time"))


def _looked_at(jobs: Sequence[Job], launcher: Launcher) -> list[Job]:
    """The jobs that have something left to do, after all were found to be good."""
    level = jobs[0].config.preflight
    if level in OFF:
        return [job for job in jobs if _is_wanted(job, failed=_has_failed(job))]
    findings = preflight(jobs, here=launcher.here, measure=level == "full")
    show(findings, console(), at_once=launcher.at_once)
    refuse([finding for finding in findings if finding.error])
    # What runs on a cluster already is waited for there.
    left = with_memory([found for found in findings if not found.is_done or (found.is_running and not launcher.here)])
    failed = {finding.job.name for finding in findings if finding.has_failed}
    return [job for job in left if _is_wanted(job, failed=job.name in failed or _has_failed(job))]


def refuse(bad: Sequence[Finding]) -> None:
    """Say what is wrong with jobs.

    Args:
        bad: What was found of them.

    Raises:
        UsageError: One of them is used wrongly.
        MedexpError: One failed when it was tried.
    """
    if not bad:
        return
    told = "\n".join(f"{finding.job.name}: {finding.error}" for finding in bad)
    kind = UsageError if any(finding.exit_code == UsageError.exit_code for finding in bad) else MedexpError
    raise kind(
        f"{_jobs(len(bad))} cannot run, so that none was started; mend or leave out (preflight=off runs the others)\n"
        f"{told}"
    )


def _has_failed(job: Job) -> bool:
    state = read_run(job.folder)
    return state is not None and state.status == FAILED


def _is_wanted(job: Job, *, failed: bool) -> bool:
    """Whether a job may run now; one that failed only on request."""
    return not failed or job.config.retry == "failed"


def _told(jobs: Sequence[Job], study: str) -> int:
    """Say what became of the jobs."""
    unfinished = {}
    for job in jobs:
        state = read_run(job.folder)
        if state is None or state.status != FINISHED:
            unfinished[job] = "not started" if state is None else " ".join(filter(None, (state.status, state.reason)))
    for job, reason in unfinished.items():
        print(f"medexp train: not finished: {job.folder.path}: {reason}", file=sys.stderr)
    print(f"study {study}: {len(jobs) - len(unfinished)} of {_jobs(len(jobs))} done")
    if any(reason.startswith(FAILED) for reason in unfinished.values()):
        print("retry=failed runs failed jobs again", file=sys.stderr)
    return 1 if unfinished else 0


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _check_distinct(sweep: Sweep, jobs: Sequence[Job]) -> None:
    if len({job.folder.path for job in jobs}) < len(jobs):
        places = [key for key in sweep.swept if is_place(key)]
        raise UsageError(
            f"{', '.join(places)} takes several values but changes nothing that is computed, so that jobs would share "
            f"the folder {jobs[0].folder.path}; give one value"
        )
