"""Values of knobs that several steps have, checked when a step is built."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from medexp.core.errors import UsageError

# By number of axes: voxels that share a face are neighbours, or those too that share an edge or a corner only.
NEIGHBOURS = {"faces": {2: 4, 3: 6}, "corners": {2: 8, 3: 26}}


def check_connectivity(connectivity: str, step: str) -> str:
    """The connectivity, if there is one of that name.

    Args:
        connectivity: The name.
        step: Name of the step, for the error.

    Returns:
        The same name.

    Raises:
        UsageError: There is none.
    """
    if not isinstance(connectivity, str) or connectivity not in NEIGHBOURS:
        raise UsageError(f"{step}.connectivity needs {' or '.join(NEIGHBOURS)}, got {connectivity!r}")
    return connectivity


def check_volume(volume_mm3: float, knob: str) -> float:
    """A volume, if there can be one.

    Args:
        volume_mm3: The volume.
        knob: Name of the knob with its step, for the error.

    Returns:
        The same volume.

    Raises:
        UsageError: It is negative or not finite.
    """
    if not is_number(volume_mm3) or not 0 <= volume_mm3 < math.inf:
        raise UsageError(f"{knob} needs a finite value of at least 0, got {volume_mm3!r}")
    return volume_mm3


def check_positive(value: float, knob: str) -> float:
    """A length or weight, if it is a finite number above 0.

    Args:
        value: The value.
        knob: Name of the knob with its step, for the error.

    Returns:
        The same value.

    Raises:
        UsageError: It is not.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise UsageError(f"{knob} needs a finite value above 0, got {value!r}")
    return value


def check_probability(value: float, knob: str) -> float:
    """A threshold of probabilities, if it can divide them.

    Args:
        value: The threshold.
        knob: Name of the knob with its step, for the error.

    Returns:
        The same value.

    Raises:
        UsageError: It lies outside (0, 1].
    """
    if not is_number(value) or not 0 < value <= 1:
        raise UsageError(f"{knob} needs a probability above 0 and up to 1, got {value!r}")
    return value


def check_count(value: int, knob: str, *, least: int = 1) -> int:
    """A whole number, if it is large enough.

    Args:
        value: The number.
        knob: Name of the knob with its step, for the error.
        least: The smallest that is allowed.

    Returns:
        The same number.

    Raises:
        UsageError: It is no whole number, or smaller.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{knob} needs a whole number from {least} on, got {value!r}")
    return value


def check_flag(value: bool, knob: str) -> bool:
    """A flag, if it is one.

    Args:
        value: The flag.
        knob: Name of the knob with its step, for the error.

    Returns:
        The same flag.

    Raises:
        UsageError: It is neither true nor false.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{knob} needs true or false, got {value!r}")
    return value


def check_names(names: Sequence[str] | None, step: str) -> tuple[str, ...] | None:
    """The names of classes that a step is told to work on, checked.

    Args:
        names: The names, or None for all classes.
        step: Name of the step, for the error.

    Returns:
        The names as a tuple, or None.

    Raises:
        UsageError: They are one word instead of a list, or an empty list.
    """
    if names is None:
        return None
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise UsageError(f"{step}.classes needs a list of names, or null for all classes, got {names!r}")
    return tuple(names)


def is_number(value: Any) -> bool:
    """Whether a value is a number, which a flag is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
