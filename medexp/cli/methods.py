"""Methods of an experiment: settings that change together, under one name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medexp.cli.overrides import axes_of, parse
from medexp.core.errors import UsageError, did_you_mean

KEY = "method"


def read_methods(methods: Any, path: Path) -> dict[str, tuple[str, ...]]:
    """The overrides of each method that an experiment file names.

    Args:
        methods: What the file says of its methods.
        path: The file.

    Returns:
        Overrides, as on the command line, by the method's name.

    Raises:
        UsageError: It is no mapping of lists, or an override cannot be read, takes several values, or sets what is no
            part of a method.
    """
    if not isinstance(methods, Mapping):
        raise UsageError(
            f"{path}: methods needs a mapping of names to lists of overrides, e.g. {{small: [model=unet]}}, "
            f"got {methods!r}"
        )
    return {str(name): _overrides(overrides, f"{path}: methods.{name}") for name, overrides in methods.items()}


def _overrides(overrides: Any, where: str) -> tuple[str, ...]:
    if not isinstance(overrides, list) or not all(isinstance(item, str) for item in overrides):
        raise UsageError(f"{where} needs a list of overrides as on the command line, got {overrides!r}")
    sweep = parse(overrides)
    if sweep.swept:
        raise UsageError(f"{where}: {', '.join(sweep.swept)} takes several values; sweep it beside the methods")
    for item, override in zip(overrides, sweep.parsed, strict=True):
        if override.key_or_group == KEY or not axes_of([item]):
            raise UsageError(f"{where}: {item} is no part of a method; give it in the file or on the command line")
    return sweep.typed


def spelt_out(job: Sequence[str], methods: Mapping[str, tuple[str, ...]], path: Path | None) -> list[str]:
    """The overrides of a job with those of its method; what the job sets itself takes precedence.

    Args:
        job: Overrides, each with one value.
        methods: Overrides of each method.
        path: The experiment file, or None.

    Returns:
        Overrides.

    Raises:
        UsageError: There are methods and none is chosen, or there is none of that name.
    """
    parsed = parse(job).parsed
    chosen = [override.value() for override in parsed if override.key_or_group == KEY]
    known = ", ".join(methods)
    if not chosen and not methods:
        return list(job)
    if not chosen:
        raise UsageError(f"{path} has several methods; choose {KEY}=NAME, or sweep them with -m ({known})")
    name = str(chosen[-1])
    if name not in methods:
        told = f" (known: {known})" if methods else "; an experiment file names its own under `methods`"
        raise UsageError(f"{KEY}={name}: no such method{did_you_mean(name, list(methods))}{told}")
    own = {override.key_or_group for override in parsed}
    sweep = parse(methods[name])
    pairs = zip(sweep.typed, sweep.parsed, strict=True)
    return [*(item for item, override in pairs if override.key_or_group not in own), *job]
