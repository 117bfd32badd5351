"""`medexp train`: one run, or the runs of a sweep."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig

from medexp.cli.composition import TOP, Composer
from medexp.cli.overrides import is_searchs
from medexp.cli.search import run_search
from medexp.cli.sweep import run_sweep
from medexp.core.errors import RunInterruptedError, UsageError
from medexp.launchers.forks import warm_up

_HELP = """usage: medexp train [EXPERIMENT] [OVERRIDES] [-m]

EXPERIMENT is a name under experiments/ or any YAML path. OVERRIDES choose and set, in Hydra's syntax:
  loss=focal                    an option of a group (conf/loss/focal.yaml)
  loss.gamma=3                  a knob of it
  post_processing=[argmax,keep_largest]
  fold=2 seed=7 study=first_try
With -m several values make a sweep:
  loss=dice,focal  seed=0..4  fold=all
  launcher.n_jobs=2  launcher=slurm     where the jobs run (conf/launcher)
  preflight=build|off  retry=failed     look less closely first; run failed jobs again
With search=optuna the values are searched (docs/searching.md):
  -m search=optuna search.n_trials=20 'optimizer.lr=tag(log,interval(1e-4,1e-1))' loss=dice,focal

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
    composer = _composer(flags)
    if flags.cfg or flags.info or flags.hydra_help:
        return _show(composer, flags)
    searches = composer.chosen("search") not in (None, "none")
    if searches and not flags.multirun:
        raise UsageError(f"search={composer.chosen('search')} makes several runs; add -m, and keys with several values")
    if searches:
        return run_search(composer)
    _refuse_knobs_of_no_search(composer)
    if composer.sweep.swept and not flags.multirun:
        raise UsageError(f"{', '.join(composer.sweep.swept)} takes several values; add -m to run them all")
    if flags.multirun:
        warm_up()  # it loads while the jobs are composed
        return run_sweep(composer.sweep, composer.compose_jobs())
    return _run(composer.compose_jobs()[0])


def _refuse_knobs_of_no_search(composer: Composer) -> None:
    for override in composer.sweep.parsed:
        if is_searchs(override.key_or_group) and override.key_or_group != "search":
            raise UsageError(f"{override.input_line} is of a search, and none is chosen; add search=optuna")


def _run(config: DictConfig) -> int:
    from medexp.engine.fit import train

    try:
        train(config)
    except RunInterruptedError as error:
        raise KeyboardInterrupt(str(error)) from error
    return 0


def _composer(flags: Namespace) -> Composer:
    named = [word for word in flags.overrides if "=" not in word and not word.startswith("~")]
    if len(named) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(named)}; overrides read KEY=VALUE")
    overrides = [word for word in flags.overrides if word not in named]
    return Composer(named[0] if named else None, overrides, config_dir=flags.config_dir)


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
