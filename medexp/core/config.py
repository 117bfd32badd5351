"""Rules of resolved configurations: their leaves, what distinguishes two experiments, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import OmegaConf

# Keys that say where things lie, who watches or how fast it goes, and not what is computed.
_PLACES_AT_ROOT = frozenset(
    {"paths", "study", "axes", "options", "on_change", "retry", "preflight", "tracking", "launcher", "search", "trial"}
)
_PLACES_ANYWHERE = frozenset({"root", "cache_dir", "workers", "pin_memory"})


def plain(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    """A configuration node as plain mappings, lists and values.

    Args:
        config: A mapping of OmegaConf's.
        resolve: Replace interpolations by what they stand for.

    Returns:
        A new mapping.
    """
    mapping = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(mapping, dict)
    return {str(key): value for key, value in mapping.items()}


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each leaf of a plain configuration; empty mappings and lists are leaves."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(config, list) and config:
        for index, value in enumerate(config):
            yield from leaves(value, f"{prefix}[{index}]")
    else:
        yield prefix, config


def is_place(key: str) -> bool:
    """Whether a dotted key says where something lies, who watches or how fast it goes, and not what is computed."""
    parts = key.split(".")
    return parts[0] in _PLACES_AT_ROOT or parts[-1] in _PLACES_ANYWHERE


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration without the keys that do not change what is computed."""
    return {key: _without_places(value) for key, value in config.items() if key not in _PLACES_AT_ROOT}


def _without_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items() if key not in _PLACES_ANYWHERE}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return value


def differences(old: Any, new: Any) -> list[str]:
    """Each leaf in which two plain structures differ, as `key: old -> new`.

    >>> differences({"lr": 0.1, "steps": 3}, {"lr": 0.2, "steps": 3})
    ['lr: 0.1 -> 0.2']
    """
    before, after = dict(leaves(old)), dict(leaves(new))
    keys = [*before, *(key for key in after if key not in before)]
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)} -> {after.get(key, absent)}"
        for key in keys
        if _differ(before.get(key, absent), after.get(key, absent))
    ]


def _differ(old: Any, new: Any) -> bool:
    both_nan = isinstance(old, float) and isinstance(new, float) and old != old and new != new
    return not both_nan and (old != new or isinstance(old, bool) != isinstance(new, bool))
