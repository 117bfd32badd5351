"""Frozen dataclasses from plain values, with every key and every type checked."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from medexp.core.errors import did_you_mean


class UnfitCardError(Exception):
    """A value of a card is not what its key stands for; `read_card` tells the file."""


def read_fields(kind: type, content: Any, where: str = "") -> Any:
    """Build a dataclass from a mapping.

    Args:
        kind: The dataclass.
        content: Its attributes by name, as YAML gives them.
        where: Dotted key of the mapping in the file.

    Returns:
        The object.

    Raises:
        UnfitCardError: A key is unknown or missing, or a value has another type.
    """
    if not isinstance(content, Mapping):
        raise UnfitCardError(f"{where or 'a card'} needs keys and values, got {content!r}")
    required = {item.name: item.default is MISSING and item.default_factory is MISSING for item in fields(kind)}
    for key in content:
        if key not in required:
            raise UnfitCardError(f"there is no key {_joined(where, key)}{did_you_mean(str(key), required)}")
    missing = [_joined(where, key) for key, needed in required.items() if needed and key not in content]
    if missing:
        raise UnfitCardError(f"{', '.join(missing)} needs a value")
    hints = _hints(kind)
    return kind(**{key: _value(hints[key], value, _joined(where, key)) for key, value in content.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _value(kind: Any, value: Any, where: str) -> Any:
    """The value as its annotation wants it: plain types, unions, tuples, mappings and dataclasses."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        inner = next(argument for argument in arguments if argument is not type(None))
        return None if value is None else _value(inner, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return read_fields(kind, value, where)
    if origin is tuple:
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(_of(list, value, where)))
    if origin is Mapping:
        return {
            _value(arguments[0], key, where): _value(arguments[1], item, _joined(where, key))
            for key, item in _of(dict, value, where).items()
        }
    return _of(kind, value, where)


def _of(kind: type, value: Any, where: str) -> Any:
    if type(value) is not kind:
        raise UnfitCardError(f"{where} needs {kind.__name__}, got {value!r}")
    return value


def _joined(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
