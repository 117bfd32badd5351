"""Values of knobs of linking, checked when a linker is built."""

from __future__ import annotations

import math
from typing import Any

from medexp.core.errors import UsageError


def check_part(value: Any, knob: str) -> float:
    """A part of a whole, if it is above 0 and at most 1.

    Args:
        value: The value.
        knob: Its name, for the error.

    Returns:
        The same value.

    Raises:
        UsageError: It is not.
    """
    if not _is_number(value) or not 0 < value <= 1:
        raise UsageError(f"{knob} needs a number above 0 and at most 1, got {value!r}")
    return float(value)


def check_length(value: Any, knob: str) -> float:
    """A length, if it is finite and above 0.

    Args:
        value: The value.
        knob: Its name, for the error.

    Returns:
        The same value.

    Raises:
        UsageError: It is not.
    """
    if not _is_number(value) or not 0 < value < math.inf:
        raise UsageError(f"{knob} needs a finite number above 0, got {value!r}")
    return float(value)


def check_count(value: Any, knob: str) -> int:
    """A number of things, if it is whole and at least 0.

    Args:
        value: The value.
        knob: Its name, for the error.

    Returns:
        The same value.

    Raises:
        UsageError: It is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UsageError(f"{knob} needs a whole number from 0 on, got {value!r}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
