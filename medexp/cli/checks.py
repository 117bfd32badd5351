"""What Hydra itself would let pass: options, keys and sweeps that cannot mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from medexp.cli.experiment_file import OPEN_OBJECTS, OPEN_VALUES, Experiment, all_keys, is_known, value_at
from medexp.cli.overrides import Sweep, is_hydras
from medexp.cli.places import key_of, option_names
from medexp.core.errors import UsageError, did_you_mean

# Groups of which several options may be chosen, or none.
_SEVERAL = ("callbacks", "metrics")
_FILLED_IN = ("axes", "options", "trial")
_HYDRAS_LAUNCHING = ("hydra/launcher", "hydra.launcher", "hydra/sweeper", "hydra.sweeper")
_OUR_LAUNCHERS = "choose where jobs run with launcher=local|slurm|ray|joblib and their knobs, e.g. launcher.n_jobs=2"


def check_sweep(sweep: Sweep, experiment: Experiment | None, groups: Sequence[str]) -> None:
    """Refuse an experiment that sets values of a group that is swept: they would reach every option.

    Args:
        sweep: The overrides of the whole sweep.
        experiment: The experiment file, if there is one.
        groups: Names of the groups.

    Raises:
        UsageError: Names the keys and the file.
    """
    if experiment is None:
        return
    for key in sweep.swept:
        values = value_at(experiment.body, key)
        if key in groups and isinstance(values, Mapping):
            raise UsageError(
                f"{experiment.path} sets {', '.join(f'{key_of(key)}.{name}' for name in values)}, but {key} is swept, "
                f"so every {key} would get it; make an option file of it (conf/{key}/NAME.yaml in a folder given with "
                "--config-dir) or sweep another group"
            )


def check_options(
    sweep: Sweep, experiment: Experiment | None, groups: Sequence[str], *, folders: Sequence[Path]
) -> None:
    """Refuse options that do not exist.

    Args:
        sweep: The overrides of one job.
        experiment: The experiment file, if there is one.
        groups: Names of the groups.
        folders: Folders of options.

    Raises:
        UsageError: Names the group, the option and the nearest valid names.
    """
    chosen = dict(experiment.choices) if experiment is not None else {}
    for override in sweep.parsed:
        if override.key_or_group.startswith(_HYDRAS_LAUNCHING):
            raise UsageError(f"{override.input_line}: Hydra's own launchers have no part here; {_OUR_LAUNCHERS}")
        if override.key_or_group in groups:
            chosen[override.key_or_group] = _option_of(override)
    own = [experiment.inline_name] if experiment is not None else []
    for group, option in chosen.items():
        if group == "derive":
            raise UsageError(f"{group}={option} chooses nothing; what is derived is a list: dataset.derive=[{option}]")
        names = option_names(group, folders)
        known = f" (known: {', '.join(names)})"
        if not isinstance(option, str | int | float | (list if group in _SEVERAL else str)):
            raise UsageError(f"{group} takes the name of an option, got {'null' if option is None else option}{known}")
        for name in map(str, option if isinstance(option, list) else [option]):
            if name not in [*names, *own]:
                raise UsageError(f"{group}={name}: no such option{did_you_mean(name, names)}{known}")


def _option_of(override: Override) -> Any:
    if override.is_delete():
        group = override.key_or_group
        remedy = f"write {group}=[]" if group in _SEVERAL else "choose another option of it"
        raise UsageError(f"{override.input_line}: an experiment needs its {group}; {remedy}")
    return override.value()


def check_overrides(sweep: Sweep, known: DictConfig, groups: Sequence[str]) -> None:
    """Refuse overrides whose keys do not exist.

    Args:
        sweep: The overrides of one job.
        known: The configuration with the same options and the experiment's values.
        groups: Names of the groups.

    Raises:
        UsageError: Names the key and the nearest valid keys.
    """
    for override in sweep.parsed:
        key = override.key_or_group
        if key in groups or is_hydras(key) or _is_of_own_object(key, sweep):
            continue
        if (root := key.split(".")[0]) in _FILLED_IN:
            raise UsageError(f"{override.input_line}: {root} is filled in by medexp; remove it")
        if not is_known(key, known):
            near = did_you_mean(key, [*all_keys(known), *groups])
            raise UsageError(f"{override.input_line}: there is no key {key}{near}")
        if override.is_delete() and key.rpartition(".")[0] not in (*OPEN_OBJECTS, *OPEN_VALUES):
            raise UsageError(f"{override.input_line}: {key} cannot be removed; give it another value, or null")


def _is_of_own_object(key: str, sweep: Sweep) -> bool:
    """Whether a key belongs to an object that these overrides add, e.g. `+metrics.mine._target_=mine.Metric`."""
    for opened in OPEN_OBJECTS:
        name = key.removeprefix(f"{opened}.").split(".")[0]
        if key.startswith(f"{opened}.") and any(_adds(override, f"{opened}.{name}") for override in sweep.parsed):
            return True
    return False


def _adds(override: Override, key: str) -> bool:
    if not (override.is_add() or override.is_force_add()):
        return False
    value = override.value()
    whole = override.key_or_group == key and isinstance(value, dict) and "_target_" in value
    return whole or override.key_or_group == f"{key}._target_"
