"""The runs of a sweep, through Hydra's launchers."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from medexp.cli.composition import TOP, Composer, finish, name_options, quoted
from medexp.cli.overrides import axes_of
from medexp.core.config import is_place
from medexp.core.errors import MedexpError, RunInterruptedError, UsageError
from medexp.core.record import RunFolder, Status, axes_name, run_folder


def run_sweep(composer: Composer, configs: Sequence[DictConfig]) -> int:
    """Hand the jobs to Hydra's launcher; what became of them is told by themselves and by their records.

    Args:
        composer: What describes the jobs.
        configs: The finished configuration of each job.

    Returns:
        0 if all jobs are done, else 1.

    Raises:
        UsageError: Two jobs would share a folder, or Hydra refused something.
    """
    folders = [run_folder(Path(config.paths.runs), config.study, config.axes) for config in configs]
    _check_distinct(composer, folders)
    study = configs[0].study
    print(f"study {study}: {_jobs(len(folders))}", flush=True)
    failures = {failure.axes: failure.message for failure in _launch(composer, folders[0].path.parent)}
    unfinished = {folder.path: reason for folder in folders if (reason := _why_unfinished(folder, failures))}
    for path, reason in unfinished.items():
        print(f"medexp train: not finished: {path}: {reason}", file=sys.stderr)
    print(f"study {study}: {len(folders) - len(unfinished)} of {_jobs(len(folders))} done")
    return 1 if unfinished else 0


def _launch(composer: Composer, folder: Path) -> list[Failure]:
    """Run all jobs; a launcher that fails itself is told, and what is left to do is seen from the records."""
    overrides = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={quoted(folder)}", *composer.hydra_overrides()]
    try:
        with composer.hydra() as hydra:
            returned = hydra.multirun(TOP, partial(train_job, sweeper=os.getpid()), overrides)
    except MedexpError:
        raise
    except Exception as error:
        print(f"medexp train: the launcher failed: {type(error).__name__}: {error}", file=sys.stderr)
        return []
    return list(_failures(returned))


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _check_distinct(composer: Composer, folders: Sequence[RunFolder]) -> None:
    if len({folder.path for folder in folders}) < len(folders):
        places = [key for key in composer.sweep.swept if is_place(key)]
        raise UsageError(
            f"{', '.join(places)} takes several values but changes nothing that is computed, so that jobs would share "
            f"the folder {folders[0].path}; give one value"
        )


@dataclass(frozen=True)
class Failure:
    """What a job returns that did not finish.

    Attributes:
        axes: The job's own overrides.
        message: What went wrong.
    """

    axes: str
    message: str


def train_job(config: DictConfig, *, sweeper: int) -> Failure | None:
    """What a launcher calls for each job, in this process or another: train, and let no failure stop the others.

    Args:
        config: As Hydra composed it.
        sweeper: Id of the process that runs the sweep.

    Returns:
        Nothing, or why the job did not finish.

    Raises:
        KeyboardInterrupt: The process that runs the sweep was asked to stop.
    """
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    axes = axes_of(hydra.overrides.task)
    name = axes_name(axes)
    try:
        from medexp.engine.fit import train

        name_options(config, hydra.runtime.choices)
        train(finish(config, axes=axes))
    except RunInterruptedError as error:
        if os.getpid() == sweeper:
            raise KeyboardInterrupt(str(error)) from error
        return Failure(name, str(error))
    except Exception as error:
        return _told(name, error)
    return None


def _told(name: str, error: Exception) -> Failure:
    """Say at once what went wrong, a programming error with its traceback, and keep it for the end."""
    if isinstance(error, MedexpError):
        print(f"medexp train: {name}: {error}", file=sys.stderr, flush=True)
        return Failure(name, _first_line(error))
    print(f"medexp train: {name}:", file=sys.stderr)
    traceback.print_exc()
    return Failure(name, f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    first, *rest = str(error).splitlines() or [""]
    return f"{first} see above" if rest else first


def _failures(returned: Any) -> Iterator[Failure]:
    """The failures among what a sweeper returned: JobReturns in nested lists, or nothing."""
    if isinstance(returned, list | tuple):
        for item in returned:
            yield from _failures(item)
    elif isinstance(returned, JobReturn) and isinstance(returned.return_value, Failure):
        yield returned.return_value


def _why_unfinished(folder: RunFolder, failures: Mapping[str, str]) -> str | None:
    if folder.path.name in failures:
        return failures[folder.path.name]
    if not folder.exists:
        return "not started"
    record = folder.read()
    return None if record.status is Status.FINISHED else record.error or record.status.value
