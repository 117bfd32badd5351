"""Reading an experiment file: options it chooses, values it sets, objects it defines inline."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from medexp.cli.methods import read_methods
from medexp.cli.places import experiment_name, key_of
from medexp.core.errors import UsageError, did_you_mean

# Mappings whose keys are the user's own: of objects, and of values.
OPEN_OBJECTS = ("callbacks", "metrics", "loss.terms")
OPEN_VALUES = ("task.regions", "loss.weights", "dataset.checks")
_CHAIN = "post_processing"
_WORD = re.compile(r"[\w/.-]+")
_NOT_HERE = {
    "options": "which medexp fills in with the chosen options; remove it",
    "axes": "which medexp fills in with the overrides of each run; remove it",
    "trial": "which medexp fills in with the number of each trial of a search; remove it",
    "method": "which chooses one of the methods; give it on the command line, or sweep it",
    "hydra": "which has no effect in an experiment; give it on the command line, e.g. hydra.verbose=true",
}


@dataclass(frozen=True)
class Experiment:
    """What an experiment file says.

    Attributes:
        path: The file.
        name: Its name under experiments/ with "-" for "/", or its stem where it lies elsewhere.
        choices: Option of each group that it chooses.
        inline: Whole objects by group, given with their own `_target_`.
        sweep: What it sweeps, as overrides of a command line.
        methods: Overrides of each method that it names.
        body: All other values.
    """

    path: Path
    name: str
    choices: dict[str, Any]
    inline: dict[str, dict[str, Any]]
    sweep: tuple[str, ...]
    methods: dict[str, tuple[str, ...]]
    body: dict[str, Any]

    @property
    def inline_name(self) -> str:
        """Name of the option that an inline object becomes."""
        return f"of_{self.name}"


def read_experiment(path: Path, groups: Iterable[str]) -> Experiment:
    """Read an experiment file.

    Args:
        path: The file.
        groups: Names of the option groups.

    Returns:
        Its parts.

    Raises:
        UsageError: It is no mapping, an entry of its defaults names no group, a key is no plain name, or its sweep or
            its methods are no mapping of lists.
    """
    known = list(groups)
    body = _read_mapping(path)
    choices = dict(_choices(body.pop("defaults", []), known, path))
    sweep = tuple(_sweep(body.pop("sweep", {}), path))
    methods = read_methods(body.pop("methods", {}), path)
    chain = choices.pop(_CHAIN, body.get(_CHAIN))
    if chain is not None and not isinstance(chain, dict):
        body[_CHAIN] = {"steps": chain if isinstance(chain, list) else [chain]}
    inline = dict(_inline(body, choices, known, path))
    for group in inline:
        body = _without(body, group.split("/"))
    name = experiment_name(path)
    return Experiment(path=path, name=name, choices=choices, inline=inline, sweep=sweep, methods=methods, body=body)


def _sweep(axes: Any, path: Path) -> Iterator[str]:
    """The axes of a study as overrides: `loss: [dice, focal]`, or as they are typed, `seed: 0..4`."""
    if not isinstance(axes, Mapping):
        raise UsageError(f"{path}: sweep needs a mapping of keys to values, e.g. {{loss: [dice, focal]}}, got {axes!r}")
    for key, values in axes.items():
        if isinstance(values, Mapping) or values in (None, []):
            raise UsageError(f"{path}: sweep.{key} needs a list of values, or a range such as 0..4, got {values!r}")
        yield f"{key}={','.join(map(_typed, values)) if isinstance(values, list) else values}"


def _typed(value: Any) -> str:
    """A value as one types it; texts in quotes, unless they are plain words."""
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) else "'" + value.replace("'", "\\'") + "'"
    return f"[{','.join(map(_typed, value))}]" if isinstance(value, list) else json.dumps(value)


def _inline(
    body: Mapping[str, Any], choices: Mapping[str, Any], groups: list[str], path: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The groups that are given as an object with its own `_target_`."""
    for group in groups:
        value = value_at(body, group)
        if isinstance(value, str):
            raise UsageError(
                f"{path} sets {key_of(group)}: {value}; an option is chosen under defaults, as "
                f"`- override /{group}: {value}`"
            )
        if not isinstance(value, dict) or "_target_" not in value or group == _CHAIN:
            continue
        if group in choices:
            raise UsageError(
                f"{path} chooses {group}={choices[group]} and defines {group} with a _target_ of its own; keep one"
            )
        yield group, value


def value_at(body: Mapping[str, Any], group: str) -> Any:
    """What an experiment's values say of the object of a group, or None."""
    node: Any = body
    for part in group.split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _without(body: Mapping[str, Any], parts: list[str]) -> dict[str, Any]:
    """The values without those of the object at this place."""
    first, *rest = parts
    kept = {key: value for key, value in body.items() if key != first}
    return {**kept, first: _without(body[first], rest)} if rest else kept


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid YAML: {error}") from None
    if not isinstance(content, DictConfig):
        raise UsageError(f"{path} needs a mapping of overrides at its top, got a {type(content).__name__}")
    plain = OmegaConf.to_container(content, resolve=False)
    assert isinstance(plain, dict)
    body = {str(key): value for key, value in plain.items()}
    for key, value in body.items():
        if key in _NOT_HERE:
            raise UsageError(f"{path} sets {key}, {_NOT_HERE[key]}")
        if "." in key or "/" in key:
            raise UsageError(f"{path} sets {key}; in a file, write it nested: {_nested(key, value)}")
    return body


def _nested(key: str, value: Any) -> str:
    first, _, rest = key.replace("/", ".").partition(".")
    return f"{first}: {{{_nested(rest, value)}}}" if rest else f"{first}: {value}"


def _choices(defaults: Any, groups: list[str], path: Path) -> Iterator[tuple[str, Any]]:
    if not isinstance(defaults, list):
        raise UsageError(f"{path}: defaults needs a list of entries `- override /GROUP: OPTION`, got {defaults!r}")
    for entry in defaults:
        if entry == "_self_":
            continue
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise UsageError(f"{path}: defaults holds {entry!r}; each entry reads `- override /GROUP: OPTION`")
        key, option = next(iter(entry.items()))
        group = str(key).removeprefix("override").strip().removeprefix("/")
        if group.startswith("hydra/"):
            raise UsageError(
                f"{path}: defaults names {group}, which has no part here; jobs run where "
                "launcher=local|slurm|ray|joblib says"
            )
        if group not in groups:
            raise UsageError(f"{path}: defaults names {group}, which is no group{did_you_mean(group, groups)}")
        # YAML reads a bare off and on as booleans.
        yield group, {False: "off", True: "on"}[option] if isinstance(option, bool) else option


def check_keys(body: Mapping[str, Any], base: DictConfig, path: Path) -> None:
    """Refuse values whose keys would not exist without the experiment file.

    Args:
        body: What the file sets.
        base: The configuration with the same options, without the file's values.
        path: The file.

    Raises:
        UsageError: Names each key, the file and the nearest valid keys.
    """
    wrong = list(_wrong_keys(body, base, known=list(all_keys(base))))
    if wrong:
        raise UsageError(f"{path} sets {'; it sets '.join(wrong)}")


def _wrong_keys(body: Mapping[str, Any], node: DictConfig, *, known: list[str], prefix: str = "") -> Iterator[str]:
    for name, item in body.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        child = node._get_node(name, validate_access=False)
        if child is None:
            is_own = prefix in OPEN_OBJECTS and isinstance(item, Mapping) and "_target_" in item
            if not is_own:
                yield f"{key}, which does not exist{_own_hint(prefix)}{did_you_mean(key, known)}"
        elif key in OPEN_VALUES:
            continue
        elif _is_branch(child):
            if isinstance(item, Mapping):
                yield from _wrong_keys(item, child, known=known, prefix=key)
            else:
                yield f"{key} to {'null' if item is None else item}, but it is a mapping (of {', '.join(child)})"
        elif isinstance(item, Mapping) and not (child._is_none() or child._is_interpolation() or child._is_missing()):
            yield f"{key} to a mapping, but it is a single value ({child})"


def _own_hint(prefix: str) -> str:
    return f" (an entry of your own in {prefix} needs a _target_)" if prefix in OPEN_OBJECTS else ""


def _is_branch(node: Any) -> TypeGuard[DictConfig]:
    return isinstance(node, DictConfig) and not (node._is_none() or node._is_missing() or node._is_interpolation())


def is_known(key: str, config: DictConfig) -> bool:
    """Whether a dotted key exists, or is an entry of the user's own in a mapping of values."""
    node: Any = config
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if ".".join(parts[:depth]) in OPEN_VALUES:
            return True
        node = node._get_node(part, validate_access=False) if _is_branch(node) else None
        if node is None:
            return False
    return True


def all_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a configuration, inner ones too."""
    if not _is_branch(node):
        return
    for name in map(str, node):
        key = f"{prefix}.{name}" if prefix else name
        yield key
        yield from all_keys(node._get_node(name), key)
