"""What sources have in common whose cases are drawn on the user's own machine."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medexp.core.errors import DataError, UsageError
from medexp.core.files import write_atomic
from medexp.core.types import Case

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def list_drawn(folder: Path, n_cases: int, draw: Callable[[Path, int], None]) -> list[Case]:
    """All cases in the order of their numbers; those that are not on disk yet are drawn.

    Args:
        folder: Where the cases lie.
        n_cases: How many there are.
        draw: Draws the case of a number into a file.

    Returns:
        The cases, each with one file that holds image and reference.
    """
    paths = [folder / f"case_{index:04d}.npz" for index in range(n_cases)]
    for index, path in enumerate(paths):
        if not path.exists():
            draw(path, index)
    return [Case(case_id=p.stem, group=p.stem, images=(p,), references={"mask": p}) for p in paths]


def write_drawn(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a drawn case into a file that appears whole or not at all, whoever is killed or writes it too.

    Args:
        path: The file.
        arrays: What it holds, by name.

    Raises:
        DataError: The file cannot be written.
    """
    named: dict[str, Any] = dict(arrays)
    try:
        write_atomic(path, lambda stream: np.savez_compressed(stream, **named))
    except OSError as error:
        raise DataError(
            f"case {path.stem}: cannot write {path} ({error}); set cache_dir to a folder that is writable and has room"
        ) from error


def read_drawn(case: Case, shapes: Mapping[str, tuple[int, ...] | None]) -> dict[str, np.ndarray]:
    """Read the arrays of a drawn case.

    Args:
        case: The case.
        shapes: The arrays by name with the shape that each needs; None for an array of any length.

    Returns:
        The arrays by name.

    Raises:
        DataError: The file is gone, damaged, or holds arrays of other shapes.
    """
    path = case.images[0]
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in shapes}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"case {case.case_id}: {path} should hold a drawn case, but reading it failed "
            f"({type(error).__name__}: {error}); delete it, and it will be drawn again"
        ) from error
    for name, shape in shapes.items():
        if shape is not None and arrays[name].shape != shape:
            raise DataError(
                f"case {case.case_id}: {path} needs {name} of shape {shape}, got {arrays[name].shape}; delete it, and "
                "it will be drawn again"
            )
    return arrays


def check_grid(
    kind: str, *, spatial_dims: int, n_cases: int, shape: Sequence[int], spacing_mm: Sequence[float]
) -> None:
    """Check the knobs that say how many cases there are and on what grid.

    Args:
        kind: What is drawn, for the error.
        spatial_dims: 2 or 3.
        n_cases: At least 1.
        shape: A value for each axis.
        spacing_mm: A value for each axis.

    Raises:
        UsageError: One of them cannot be drawn.
    """
    if spatial_dims not in (2, 3):
        raise UsageError(f"spatial_dims of {kind} needs 2 or 3, got {spatial_dims}")
    for knob, values in (("shape", shape), ("spacing_mm", spacing_mm)):
        if len(values) != spatial_dims:
            raise UsageError(f"{knob} of {kind} in {spatial_dims}D needs {spatial_dims} values, got {list(values)}")
    if n_cases < 1:
        raise UsageError(f"n_cases of {kind} needs at least 1, got {n_cases}")


def low_high(kind: str, knob: str, values: Sequence[float | int]) -> tuple[float, float]:
    """The two ends of a range.

    Args:
        kind: What is drawn, for the error.
        knob: Name of the knob, for the error.
        values: The ends as the configuration gives them.

    Returns:
        The ends.

    Raises:
        UsageError: There are not two, or the first is above the second.
    """
    if len(values) != 2 or not values[0] <= values[1]:
        raise UsageError(f"{knob} of {kind} needs [low, high], low not above high, got {list(values)}")
    return float(values[0]), float(values[1])


def has_none(seed: int, index: int, share: float) -> bool:
    """Whether a case is one of the share without any object; evenly spread, so that even few cases have the share."""
    start = np.random.default_rng(seed).uniform()
    return bool((start + index * _GOLDEN_RATIO) % 1 < share)
