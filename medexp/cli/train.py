"""`medexp train`: one run, or the runs of a sweep through Hydra's launchers."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from medexp.cli.composition import Composer
from medexp.cli.places import conf_folder
from medexp.core.errors import MedexpError, RunInterrupted, UsageError
from medexp.core.record import RunFolder, Status, run_folder

_HELP = """usage: medexp train [EXPERIMENT] [OVERRIDES] [-m]

EXPERIMENT is a name under experiments/ or any YAML path. OVERRIDES choose and set, in Hydra's syntax:
  loss=focal                    an option of a group (conf/loss/focal.yaml)
  loss.gamma=3                  a knob of it
  post_processing=[argmax,keep_largest]
  fold=2 seed=7 study=first_try
With -m several values make a sweep:
  loss=dice,focal  seed=0..4  fold=all

flags:
  -m, --multirun         run every combination
  -cd, --config-dir DIR  your own options, laid out like conf/
  -c, --cfg job          print the composed configuration and stop (--resolve: with interpolations resolved)
  -i, --info [TOPIC]     Hydra's own account of how it was composed
  -sc install=bash       shell completion

Runs are recorded under runs/STUDY/OVERRIDES/. The same command again finds finished runs and resumes interrupted ones."""


def train_command(words: Sequence[str]) -> int:
    """Train what the words describe.

    Args:
        words: Words after `medexp train`.

    Returns:
        0 if all runs finished, 1 if one failed.

    Raises:
        UsageError: The words describe nothing that can be trained.
    """
    from hydra._internal.utils import get_args_parser

    if any(word in ("-h", "--help") for word in words):
        print(_HELP)
        return 0
    flags = get_args_parser().parse_args(list(words))
    named = [word for word in flags.overrides if "=" not in word and not word.startswith("~")]
    if len(named) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(named)}; overrides read KEY=VALUE")
    overrides = [word for word in flags.overrides if word not in named]
    composer = Composer(named[0] if named else None, overrides, config_dir=flags.config_dir)
    if flags.cfg or flags.info or flags.shell_completion or flags.hydra_help:
        return _hydra(composer, [word for word in words if word not in flags.overrides])
    if composer.sweep.swept and not flags.multirun:
        raise UsageError(f"{', '.join(composer.sweep.swept)} takes several values; add -m to run them all")
    configs = [composer.compose_job(job) for job in composer.jobs()]
    if flags.multirun:
        return _sweep(composer, configs)
    from medexp.engine.fit import train

    train(configs[0])
    return 0


def _sweep(composer: Composer, configs: Sequence[DictConfig]) -> int:
    """Hand the jobs to Hydra's launcher; what became of them is read from their records."""
    folders = [run_folder(Path(config.paths.runs), config.study, config.axes) for config in configs]
    print(f"{len(folders)} jobs of study {configs[0].study}")
    _hydra(composer, ["--multirun"])
    unfinished = [folder for folder in folders if _status(folder) is not Status.FINISHED]
    for folder in unfinished:
        print(f"medexp train: not finished: {folder.path}", file=sys.stderr)
    return 1 if unfinished else 0


def _status(folder: RunFolder) -> Status | None:
    return folder.read().status if folder.exists else None


def _hydra(composer: Composer, flags: Sequence[str]) -> int:
    """Run Hydra's own command line on the same configuration."""
    import hydra

    entry = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name="train")(_job(composer))
    with _argv(["medexp", *composer.hydra_overrides(composer.sweep.typed), *flags]):
        entry()
    return 0


class _job:  # noqa: N801
    """What a launcher calls for each job: compose as `medexp.compose` does, train, and let no failure stop the others."""

    def __init__(self, composer: Composer) -> None:
        self.composer = composer
        self.__name__ = "train"

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        from medexp.engine.fit import train

        fixed = set(self.composer.hydra_overrides([]))
        job = [item for item in HydraConfig.get().overrides.task if item not in fixed]
        try:
            train(self.composer.compose_job(job))
        except RunInterrupted as error:
            print(f"medexp train: {error}", file=sys.stderr)
            raise KeyboardInterrupt from error
        except MedexpError as error:
            print(f"medexp train {' '.join(job)}: {error}", file=sys.stderr)
        except Exception:
            traceback.print_exc()


@contextmanager
def _argv(words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = before
