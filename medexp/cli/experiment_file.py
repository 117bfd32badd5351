"""Reading an experiment file: options it chooses, values it sets, objects it defines inline."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from medexp.core.errors import UsageError, did_you_mean

# Mappings whose keys are the user's own.
OPEN = ("callbacks", "metrics", "task.regions", "loss.terms", "loss.weights")


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says.

    Attributes:
        path: The file.
        name: Its stem.
        choices: Option of each group that it chooses.
        inline: Whole objects by group, given with their own `_target_`.
        body: All other values.
    """

    path: Path
    name: str
    choices: dict[str, Any]
    inline: dict[str, dict[str, Any]]
    body: dict[str, Any]


def read_experiment(path: Path, groups: Iterable[str]) -> Experiment:
    """Read an experiment file.

    Args:
        path: The file.
        groups: Names of the option groups.

    Returns:
        Its parts.

    Raises:
        UsageError: It is no mapping, or an entry of its defaults names no group.
    """
    known = list(groups)
    try:
        content = OmegaConf.load(path)
    except YAMLError as error:
        raise UsageError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(content, DictConfig):
        raise UsageError(f"{path} needs a mapping of overrides at its top, got a {type(content).__name__}")
    plain = OmegaConf.to_container(content, resolve=False)
    assert isinstance(plain, dict)
    body = {str(key): value for key, value in plain.items()}
    choices = dict(_choices(body.pop("defaults", []), known, path))
    chain = choices.pop("post_processing", body.get("post_processing"))
    if chain is not None and not isinstance(chain, dict):
        body["post_processing"] = {"steps": chain if isinstance(chain, list) else [chain]}
    inline = {
        group: body.pop(group)
        for group in known
        if isinstance(body.get(group), dict) and "_target_" in body[group] and group != "post_processing"
    }
    for group in inline.keys() & choices.keys():
        raise UsageError(
            f"{path} chooses {group}={choices[group]} and defines {group} with a _target_ of its own; keep one"
        )
    return Experiment(path=path, name=path.stem, choices=choices, inline=inline, body=body)


def _choices(defaults: Any, groups: list[str], path: Path) -> Iterator[tuple[str, Any]]:
    for entry in defaults:
        if entry == "_self_":
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UsageError(f"{path}: defaults holds {entry!r}; each entry reads `- override /GROUP: OPTION`")
        key, option = next(iter(entry.items()))
        group = str(key).removeprefix("override").strip().removeprefix("/")
        if group not in groups:
            raise UsageError(f"{path}: defaults names {group}, which is no group{did_you_mean(group, groups)}")
        # YAML reads a bare off as a boolean.
        yield group, "off" if option is False else option


def check_keys(body: Mapping[str, Any], base: DictConfig, path: Path) -> None:
    """Refuse a value whose key would not exist without the experiment file.

    Raises:
        UsageError: Names the key, the file and the nearest valid keys.
    """
    known = list(all_keys(base))
    for key in _set_keys(body):
        if not is_known(key, base):
            raise UsageError(f"{path} sets {key}, which does not exist{did_you_mean(key, known)}")


def _set_keys(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, item in value.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(item, Mapping) and item and key not in OPEN:
            yield from _set_keys(item, key)
        else:
            yield key


def is_known(key: str, base: DictConfig) -> bool:
    """Whether a dotted key exists, or lies below a mapping whose keys are the user's own."""
    parts = key.split(".")
    if any(".".join(parts[:depth]) in OPEN for depth in range(1, len(parts))):
        return True
    node: Any = base
    for part in parts:
        if not isinstance(node, DictConfig) or part not in node:
            return False
        node = node._get_node(part)
    return True


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration, inner ones too."""
    if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or node._is_interpolation():
        return
    for name in node:
        key = f"{prefix}.{name}" if prefix else str(name)
        yield key
        yield from all_keys(node._get_node(name), key)
