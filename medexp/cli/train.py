"""`medexp train`: one run, or the runs of a sweep through Hydra's launchers."""

from __future__ import annotations

import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from medexp.cli.composition import TOP, Composer, finish, quoted
from medexp.cli.overrides import axes_of
from medexp.core.config import is_place
from medexp.core.errors import MedexpError, RunInterrupted, UsageError
from medexp.core.record import RunFolder, Status, axes_name, run_folder

_HELP = """usage: medexp train [EXPERIMENT] [OVERRIDES] [-m]

EXPERIMENT is a name under experiments/ or any YAML path. OVERRIDES choose and set, in Hydra's syntax:
  loss=focal                    an option of a group (conf/loss/focal.yaml)
  loss.gamma=3                  a knob of it
  post_processing=[argmax,keep_largest]
  fold=2 seed=7 study=first_try
With -m several values make a sweep:
  loss=dice,focal  seed=0..4  fold=all  hydra/launcher=joblib

flags:
  -m, --multirun         run every combination
  -cd, --config-dir DIR  your own options, laid out like conf/
  -c, --cfg job          print the composed configuration and stop (--resolve: with interpolations resolved)
  -i, --info [TOPIC]     Hydra's own account of how it was composed
  -sc install=bash       shell completion: eval "$(medexp train -sc install=bash)"

Runs are recorded under runs/STUDY/OVERRIDES/. The same command again finds finished runs and resumes interrupted
ones."""
_NOT_OFFERED = {
    "config_name": "--config-name has no meaning here; name an experiment instead",
    "config_path": "--config-path has no meaning here; --config-dir adds a folder of options",
    "experimental_rerun": "--experimental-rerun has no meaning here; run the same command again",
}


def train_command(words: Sequence[str]) -> int:
    """Train what the words describe.

    Args:
        words: Words after `medexp train`.

    Returns:
        0 if all runs finished, 1 if one failed.

    Raises:
        UsageError: The words describe nothing that can be trained.
    """
    if any(word in ("-h", "--help") for word in words):
        print(_HELP)
        return 0
    flags = _parse(words)
    if flags.shell_completion:
        from medexp.cli.completion import complete

        return complete(flags.overrides)
    named = [word for word in flags.overrides if "=" not in word and not word.startswith("~")]
    if len(named) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(named)}; overrides read KEY=VALUE")
    overrides = [word for word in flags.overrides if word not in named]
    composer = Composer(named[0] if named else None, overrides, config_dir=flags.config_dir)
    if flags.cfg or flags.info or flags.hydra_help:
        return _show(composer, flags)
    if composer.sweep.swept and not flags.multirun:
        raise UsageError(f"{', '.join(composer.sweep.swept)} takes several values; add -m to run them all")
    configs = composer.compose_jobs()
    if flags.multirun:
        return _sweep(composer, configs)
    from medexp.engine.fit import train

    try:
        train(configs[0])
    except RunInterrupted as error:
        raise KeyboardInterrupt(str(error)) from error
    return 0


def _parse(words: Sequence[str]) -> Namespace:
    parser = get_args_parser()
    parser.usage = "medexp train [EXPERIMENT] [OVERRIDES] [-m]; medexp train --help explains them"
    flags = parser.parse_intermixed_args(list(words))
    for flag, remedy in _NOT_OFFERED.items():
        if getattr(flags, flag) is not None:
            raise UsageError(remedy)
    if flags.resolve and not flags.cfg:
        raise UsageError("--resolve goes with --cfg job")
    return flags


def _show(composer: Composer, flags: Namespace) -> int:
    """Hydra's own account of the configuration of one job, whose values may be missing still."""
    if composer.sweep.swept:
        raise UsageError(f"{', '.join(composer.sweep.swept)} takes several values, and one job is shown; give one")
    composer.check()
    overrides = composer.hydra_overrides()
    try:
        with composer.hydra() as hydra:
            if flags.hydra_help:
                hydra.hydra_help(TOP, get_args_parser(), Namespace(overrides=[]))
            elif flags.cfg:
                hydra.show_cfg(TOP, overrides, cfg_type=flags.cfg, package=flags.package, resolve=flags.resolve)
            else:
                hydra.show_info(flags.info, config_name=TOP, overrides=overrides)
    except SystemExit as stop:  # Hydra has told what is wrong
        return UsageError.exit_code if stop.code else 0
    return 0


def _sweep(composer: Composer, configs: Sequence[DictConfig]) -> int:
    """Hand the jobs to Hydra's launcher; what became of them is told by themselves and by their records."""
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

    axes = axes_of(HydraConfig.get().overrides.task)
    name = axes_name(axes)
    try:
        from medexp.engine.fit import train

        train(finish(config, axes=axes))
    except RunInterrupted as error:
        if os.getpid() == sweeper:
            raise KeyboardInterrupt(str(error)) from error
        return Failure(name, str(error))
    except MedexpError as error:
        print(f"medexp train: {name}: {error}", file=sys.stderr, flush=True)
        return Failure(name, _first_line(error))
    except Exception as error:
        print(f"medexp train: {name}:", file=sys.stderr)
        traceback.print_exc()
        return Failure(name, f"{type(error).__name__}: {_first_line(error)}")
    return None


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
