"""What a job would do, before it is queued: whether it builds, what it finds recorded, what a step of it costs."""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.instantiate import trust_folders
from medexp.core.record import RunFolder, run_folder
from medexp.core.schema import check_values
from medexp.engine.fit import resolved_process
from medexp.engine.inspected import Cost, Inspected, Standing
from medexp.engine.job import TrainingJob
from medexp.engine.log import without_advice
from medexp.engine.process import device_of, keep_freed_memory
from medexp.engine.processes import Processes
from medexp.engine.study import Study
from medexp.engine.work import Work

# The first step makes what the others find made.
_BATCHES = 3


def inspect(config: DictConfig, *, here: bool, measure: bool) -> Inspected:
    """Build a job as `medexp.train` would, compare it with what is recorded, and try a step; nothing is recorded.

    Args:
        config: As `medexp.compose` returns it; stays as it is.
        here: The job will run on a machine like this one. If not, what `auto` stands for is not decided for it, and no
            step is tried.
        measure: Try a step, unless the job is done or runs already.

    Returns:
        What it would do.

    Raises:
        UsageError: An option is wrong or does not fit another.
        RecordError: The run's folder holds another experiment's run.
    """
    check_values(plain(config))
    keep_freed_memory()
    trust_folders(config.paths.modules)
    config = config.copy()
    processes = Processes.of(config, device=device_of(config))
    runs = Path(config.paths.runs)
    with (
        without_advice(),
        _study(runs, config.study, lasting=here) as study,
        resolved_process(config, study, processes),
    ):
        job = TrainingJob(config, run_folder(runs, config.study, config.axes), processes, planned={})
        standing = job.standing()
        job.work.try_patch()
        model = job.parts.module.model
        wanted = measure and here and standing not in (Standing.FINISHED, Standing.PRUNED, Standing.RUNNING)
        return Inspected(
            standing=standing,
            error=job.folder.read().error if standing is Standing.FAILED else None,
            steps=job.parts.total_steps,
            parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
            cost=cost_of(config, processes) if wanted and processes.world_size == 1 else None,
        )


@contextmanager
def _study(runs: Path, name: str, *, lasting: bool) -> Iterator[Study]:
    """The study, or a copy of what is decided for it where nothing may be."""
    study = Study(runs, name)
    if lasting:
        yield study
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Study(Path(folder), name)
        copy.take_over(study)
        yield copy


class _EnoughError(Exception):
    """The steps that were wanted are done."""


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(perf_counter())
        if len(self.ends) == _BATCHES:
            raise _EnoughError


def cost_of(config: DictConfig, processes: Processes) -> Cost:
    """Train a few batches of a resolved configuration, in a folder that is thrown away.

    Args:
        config: A finished configuration, its `auto` values resolved.
        processes: This process.

    Returns:
        What it costs.
    """
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        work = Work(config, RunFolder(Path(folder)), processes)
        trainer = work.trainer([clock], validate=False)
        on_gpu = trainer.strategy.root_device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        begin = perf_counter()
        with suppress(_EnoughError):
            trainer.fit(work.parts.module, datamodule=work.parts.data)
    used = torch.cuda.max_memory_reserved() if on_gpu else _peak_bytes()
    first, last = (clock.ends[0], clock.ends[-1]) if len(clock.ends) > 1 else (begin, clock.ends[-1])
    batch_s = (last - first) / max(1, len(clock.ends) - 1)
    return Cost(step_s=batch_s * config.trainer.accumulate, memory_mb=used / 1e6)


def _peak_bytes() -> int:
    """The most memory that this process ever had; macOS counts bytes, Linux kibibytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
