"""What sources of pictures have in common: paths, groups, channels, and what is told of a case."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import numpy as np
from jaxtyping import Float32

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.faults import Fault, Severity
from medexp.core.types import Case


def checked_root(root: str | os.PathLike[str] | None, holds: str) -> Path:
    """The folder of a dataset; UsageError where the knob is unset."""
    if root is None:
        raise UsageError(f"this dataset needs root, the folder that holds {holds}; set dataset.root=FOLDER")
    return Path(root).expanduser()


def check_choice(knob: str, value: str, choices: Sequence[str]) -> None:
    """Raise UsageError where a knob has none of the values that it may have."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"dataset.source.{knob} needs {' or '.join(choices)}, got {value!r}{hint}")


def checked_names(knob: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names as the configuration gives them; UsageError where they are no list of distinct texts, or none."""
    if (
        isinstance(names, str)
        or not names
        or len(set(names)) < len(names)
        or not all(isinstance(n, str) for n in names)
    ):
        raise UsageError(f"dataset.source.{knob} needs a list of distinct names, got {names!r}")
    return tuple(names)


def name_of(root: Path) -> str:
    """Name of a dataset after its folder, fit for a file name."""
    return re.sub(r"[^\w-]+", "_", root.resolve().name).strip("_") or "dataset"


def inside(folder: Path, text: object) -> Path | None:
    """A path that a file of the dataset names, below a folder; None where it would leave the folder.

    Links that the folder's owner made are followed as usual.
    """
    path = PureWindowsPath(text) if isinstance(text, str) else PureWindowsPath("/")  # splits at both / and \
    if path.anchor or ".." in path.parts or "\0" in str(text) or not path.parts:
        return None
    return folder.joinpath(*path.parts)


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, in natural order, without hidden entries; nothing where there is no such folder."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=natural)]


def natural(name: str) -> tuple[list[str | int], str]:
    """Key that sorts names as people do, 2 before 10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


def composed(name: str) -> str:
    """A name in the form of Unicode that most systems write, so that those of a Mac are found equal."""
    return unicodedata.normalize("NFC", name)


class Groups:
    """Finds the independent unit of a case in its id.

    Args:
        pattern: Regular expression with one group that finds it; None takes each case as a unit of its own.

    Raises:
        UsageError: The pattern is no regular expression with one group.
    """

    def __init__(self, pattern: str | None) -> None:
        try:
            self.pattern = None if pattern is None else re.compile(pattern)
        except re.error as error:
            raise UsageError(f"group_pattern {pattern!r} is no regular expression: {error}") from error
        if self.pattern is not None and self.pattern.groups != 1:
            raise UsageError(f"group_pattern needs exactly one group in brackets, got {pattern!r}")

    def of(self, case_id: str) -> tuple[str, tuple[Fault, ...]]:
        """The group of a case, and a fault where none is found."""
        if self.pattern is None:
            return case_id, ()
        match = self.pattern.search(case_id)
        if match is not None and match[1]:
            return str(match[1]), ()
        expected = f"an id in which group_pattern {self.pattern.pattern!r} finds a patient"
        return case_id, (Fault("missing_group", expected, "none", "widen the pattern", case_id),)


def raise_errors(case: Case) -> None:
    """Refuse to read a case that was listed with errors."""
    errors = [fault for fault in case.faults if fault.severity is Severity.ERROR]
    if errors:
        raise DataError.of(*errors)


def told(case: Case, warnings: Iterable[Fault]) -> Case:
    """The case with what reading it found that does not keep it from being used."""
    return replace(case, faults=(*case.faults, *warnings))


def in_channels(
    pixels: Float32[np.ndarray, "channels *spatial"], channels: Sequence[str], *, case_id: str, file: Path
) -> Float32[np.ndarray, "declared *spatial"]:
    """The pixels if they have the declared channels; grey values that were saved as RGB become one channel again.

    Args:
        pixels: Values with the channels of the file.
        channels: Names of the declared ones.
        case_id: The case.
        file: The file.

    Returns:
        Values with the declared channels.

    Raises:
        DataError: There are other channels.
    """
    if len(pixels) == len(channels):
        return pixels
    if len(channels) == 1 and (pixels == pixels[:1]).all():
        return pixels[:1]
    expected = f"{len(channels)} channels ({', '.join(channels)})"
    remedy = "convert the file, or declare its channels in dataset.source.channels"
    found = f"{len(pixels)}{' that differ' if len(channels) == 1 else ''}"
    raise DataError.of(Fault("wrong_channels", expected, found, remedy, case_id, file))


def check_shape(shape: tuple[int, ...], image_shape: tuple[int, ...], *, case_id: str, file: Path) -> None:
    """Raise DataError where an annotation has another shape than its image."""
    if shape != image_shape:
        expected = f"shape {image_shape} as the image has"
        remedy = "check that it belongs to this image, or make it again from the image as it is"
        raise DataError.of(Fault("shape_mismatch", expected, str(shape), remedy, case_id, file))
