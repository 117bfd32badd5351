"""Training a composed configuration: the process and its `auto` values, then the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.hardware import available_cores
from medexp.core.instantiate import trust_folders
from medexp.core.record import run_folder
from medexp.core.schema import check_values
from medexp.data.plan.configured import fill_in, plan_name, plan_values, planned_keys
from medexp.engine.build import build
from medexp.engine.follow import follow
from medexp.engine.job import TrainingJob
from medexp.engine.log import logging_to
from medexp.engine.loss_choice import pin_loss
from medexp.engine.precision import check_precision, resolve_precision
from medexp.engine.process import device_of, keep_freed_memory
from medexp.engine.processes import Processes
from medexp.engine.run import Run
from medexp.engine.study import Study
from medexp.engine.work import configured_process


def train(config: DictConfig) -> Run:
    """Train, judge and record the experiment of a composed configuration, or find it done already.

    Args:
        config: As `medexp.compose` returns it.

    Returns:
        The recorded run.

    Raises:
        UsageError: An option is wrong or does not fit another.
        RecordError: The run's folder holds another experiment's run, or another process writes it.
        RunInterruptedError: The process was asked to stop; the state is saved and the same call resumes.
    """
    check_values(plain(config))
    keep_freed_memory()
    trust_folders(config.paths.modules)
    config = config.copy()
    processes = Processes.of(config, device=device_of(config))
    with processes.open():
        if not processes.is_first:
            return Run(follow(processes).path)
        study = Study(Path(config.paths.runs), config.study)
        with resolved_process(config, study, processes) as planned:
            folder = run_folder(Path(config.paths.runs), config.study, config.axes)
            with folder.lock(), logging_to(folder.log):
                return TrainingJob(config, folder, processes, planned=planned).run()


@contextmanager
def resolved_process(config: DictConfig, study: Study, processes: Processes) -> Iterator[dict[str, dict[str, Any]]]:
    """The process as a configuration wants it, whose `auto` values are resolved once per study.

    Args:
        config: Gets the values.
        study: Remembers them.
        processes: This process and the others.

    Yields:
        What the dataset decided, each with its reasons: the plan and the choice of a loss, as far as the configuration
        leaves them to it.

    Raises:
        UsageError: A value fits neither the device nor the dataset.
    """
    choice = pin_loss(config, study)
    plan = _pin_plan(config, study)
    _pin_threads(config, study, processes)
    with configured_process(config):
        if config.precision == "auto":
            config.precision = study.pin("precision", lambda: resolve_precision(config, build(config)))
        check_precision(config.precision, device=processes.device)
        yield {name: found for name, found in (("plan", plan), ("loss", choice)) if found is not None}


def _pin_plan(config: DictConfig, study: Study) -> dict[str, Any] | None:
    """Fill in what the configuration leaves to the plan of the dataset; None where that is nothing."""
    if not planned_keys(config):
        return None
    values: dict[str, Any] = study.pin(plan_name(config), lambda: plan_values(config))
    fill_in(config, values)
    return values


def _pin_threads(config: DictConfig, study: Study, processes: Processes) -> None:
    if config.threads == "auto":
        sharing = processes.on_this_machine
        whose = "all cores of this process" if sharing == 1 else f"an equal share of the cores for {sharing} processes"
        config.threads = study.pin("threads", lambda: (max(1, available_cores() // sharing), whose))
    if config.dataset.workers == "auto":
        config.dataset.workers = study.pin("workers", lambda: _loading_workers(config))


def _loading_workers(config: DictConfig) -> tuple[int, str]:
    """Processes that load batches, and why so many."""
    if device_of(config) == "cpu":
        return 0, "the network computes on the CPU; a loading process would take its cores"
    cores = available_cores()
    return max(0, min(8, cores - 1)), f"one core fewer than the {cores} of this process, at most 8"
