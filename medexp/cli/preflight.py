"""Before a study is queued: every job is built and compared with its record, one step of each distinct model runs."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medexp.core.config import comparable, plain
from medexp.core.errors import MedexpError
from medexp.core.hashing import hash_plain
from medexp.engine.inspected import Cost, Inspected, Standing
from medexp.engine.pace import format_duration
from medexp.launchers.forks import Fork, receiver
from medexp.launchers.jobs import Job

_NOTHING_TO_DO = (Standing.FINISHED, Standing.PRUNED, Standing.RUNNING)
# What may differ between jobs whose steps cost the same.
_SAME_COST = ("seed", "fold")


@dataclass(frozen=True)
class Finding:
    """What was found of a job.

    Attributes:
        job: The job.
        inspected: What it would do; None for a bad job.
        error: What is wrong with a bad job.
        exit_code: That of the error.
    """

    job: Job
    inspected: Inspected | None
    error: str = ""
    exit_code: int = 0

    @property
    def is_done(self) -> bool:
        """Whether there is nothing left to do, or another process does it."""
        return self.inspected is not None and self.inspected.standing in _NOTHING_TO_DO

    @property
    def has_failed(self) -> bool:
        """Whether this very run was made before, and failed."""
        return self.inspected is not None and self.inspected.standing is Standing.FAILED


def preflight(jobs: Sequence[Job], *, here: bool, measure: bool) -> list[Finding]:
    """Inspect jobs in processes of their own, one for those that differ in seed and fold only.

    Args:
        jobs: The jobs of a study.
        here: Whether they will run on this machine.
        measure: Try a step of each distinct one.

    Returns:
        What was found of each, in their order.
    """
    alike: dict[str, list[Job]] = {}
    for job in jobs:
        alike.setdefault(_kind(job), []).append(job)
    found = {
        finding.job: finding
        for group in alike.values()
        for finding in _inspect_apart(group, here=here, measure=measure)
    }
    return [found[job] for job in jobs]


def _inspect_apart(jobs: Sequence[Job], *, here: bool, measure: bool) -> Iterator[Finding]:
    reads, writes = receiver()
    fork = Fork(inspect_jobs, ([job.config for job in jobs], here, measure, writes))
    writes.close()
    try:
        for job in jobs:
            yield _received(job, reads)
        fork.end()
    finally:
        fork.send(signal.SIGKILL)
        reads.close()


def _received(job: Job, reads: Connection) -> Finding:
    """What the process found of a job, or that it is gone."""
    try:
        inspected, error, code = reads.recv()
    except EOFError:
        return Finding(job, None, "the process that tried it was killed, perhaps for want of memory", 1)
    return Finding(job, inspected, error, code)


def inspect_jobs(configs: Sequence[DictConfig], here: bool, measure: bool, writes: Connection) -> int:
    """What a process of the preflight does: inspect jobs in turn, and tell of each.

    Args:
        configs: Their configurations, which differ in seed and fold only.
        here: Whether they will run on this machine.
        measure: Try a step of the first that has something left to do.
        writes: Gets for each what was found, or None, then the error and its exit code.

    Returns:
        0.
    """
    from medexp.engine.preflight import inspect

    cost = None
    for config in configs:
        try:
            inspected = inspect(config, here=here, measure=measure and cost is None)
            cost = cost or inspected.cost
            writes.send((inspected, "", 0))
        except MedexpError as error:
            writes.send((None, str(error), error.exit_code))
        except Exception as error:
            traceback.print_exc()
            writes.send((None, f"{type(error).__name__}: {error}", 1))
    return 0


def show(findings: Sequence[Finding], console: Console, *, at_once: int | None) -> None:
    """Print what was found: a line a job, then what all of it will take.

    Args:
        findings: What was found of each job.
        console: Where to.
        at_once: How many jobs run at a time; None where nobody knows.
    """
    table = Table(box=None, pad_edge=False)
    for title in ("job", "is", "steps", "parameters", "s a step", "training", "memory"):
        table.add_column(title, overflow="fold", justify="left" if title in ("job", "is") else "right")
    left_s, costs = 0.0, dict(_costs(findings))
    for finding in findings:
        found, cost = finding.inspected, costs.get(finding.job)
        if found is None:
            table.add_row(Text(finding.job.name), "wrong")
            continue
        cells = ["", "", ""]
        if cost is not None and not finding.is_done:
            left_s += cost.step_s * found.steps
            cells = [f"{cost.step_s:.3g}", format_duration(cost.step_s * found.steps), f"{cost.memory_mb:,.0f} MB"]
        table.add_row(Text(finding.job.name), found.standing.value, str(found.steps), f"{found.parameters:,}", *cells)
    console.print(table)
    if left_s:
        share = "" if at_once in (None, 1) else f", {at_once} at a time"
        console.print(
            f"training takes about {format_duration(left_s / (at_once or 1))}{share}, by first steps; preparing and "
            "judging cases comes on top",
            highlight=False,
            soft_wrap=True,
        )


def _costs(findings: Sequence[Finding]) -> Iterator[tuple[Job, Cost]]:
    """What each job costs; jobs that differ in seed and fold only share what was measured of one."""
    measured = {_kind(f.job): f.inspected.cost for f in findings if f.inspected is not None and f.inspected.cost}
    for finding in findings:
        cost = measured.get(_kind(finding.job))
        if cost is not None:
            yield finding.job, cost


def _kind(job: Job) -> str:
    """The same for jobs that differ in seed and fold only."""
    rest = {key: value for key, value in comparable(plain(job.config)).items() if key not in _SAME_COST}
    return hash_plain(rest)


def with_memory(findings: Sequence[Finding]) -> list[Job]:
    """The jobs, each with the memory that it is expected to need."""
    costs = dict(_costs(findings))
    return [
        replace(finding.job, memory_mb=costs[finding.job].memory_mb if finding.job in costs else None)
        for finding in findings
    ]
