"""Chains of steps as they are written in an experiment or on the command line, made whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from medexp.cli.places import option_names
from medexp.core.errors import UsageError, did_you_mean


def whole_steps(key: str, chain: Any, folders: Sequence[Path], *, group: str) -> list[dict[str, Any]]:
    """Each step of a chain with all its knobs.

    Args:
        key: Where the chain stands, for error messages.
        chain: List of steps: a name, a name with knobs (`{remove_small: {min_volume_mm3: 20}}`), or a step in full
            (with a `_target_` of its own). A step may occur twice.
        folders: Folders of options, the user's own first.
        group: Folder of the steps' options.

    Returns:
        The steps in order.

    Raises:
        UsageError: A step or a knob does not exist.
    """
    if not isinstance(chain, list):
        raise UsageError(f"{key} needs a list of steps, e.g. [{option_names(group, folders)[0]}], got {chain}")
    return [_whole_step(item, f"{key}[{position}]", folders, group) for position, item in enumerate(chain)]


def _whole_step(item: Any, where: str, folders: Sequence[Path], group: str) -> dict[str, Any]:
    if isinstance(item, Mapping) and "_target_" in item:
        return dict(item)
    if isinstance(item, str):
        return _read_step(item, where, folders, group)
    if not isinstance(item, Mapping) or len(item) != 1:
        raise UsageError(
            f"{where} needs a step's name, or one name with its knobs ({{NAME: {{KNOB: VALUE}}}}), got {item}"
        )
    name, knobs = next(iter(item.items()))
    step = _read_step(str(name), where, folders, group)
    if not isinstance(knobs, Mapping | None):
        raise UsageError(f"{where} needs the knobs of {name} as a mapping ({{{name}: {{KNOB: VALUE}}}}), got {knobs}")
    for knob in knobs or {}:
        if knob not in step:
            known = [key for key in step if key != "_target_"]
            raise UsageError(
                f"{where}: step {name} has no knob {knob}{did_you_mean(str(knob), known)} (known: {', '.join(known)})"
            )
    return {**step, **(knobs or {})}


def _read_step(name: str, where: str, folders: Sequence[Path], group: str) -> dict[str, Any]:
    for folder in folders:
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            step = OmegaConf.to_container(OmegaConf.load(file))
            assert isinstance(step, dict)
            return {str(key): value for key, value in step.items()}
    names = option_names(group, folders)
    raise UsageError(f"{where} is {name}: no such step{did_you_mean(name, names)} (known: {', '.join(names)})")
