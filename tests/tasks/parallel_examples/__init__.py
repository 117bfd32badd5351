"""An example of each representation of instances by maps, for the tests that all of them pass; each in a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Example:
    """A representation, and the step that makes instances of it.

    Attributes:
        name: Of conf/task/representation.
        perfect: Makes of a batch of targets what a network that is sure of them returns, by head of the representation.
        step: The step as the configuration names it, with knobs.
        dims: What it is for.
        knobs: Of the representation.
        others: For each knob another value that changes a target or the loss.
        wrong: A value of a knob that is refused, and a part of the error, for each.
        least_iou: What perfect maps reach at least, on the grid of the network and on another.
        needs: A module without which the step does not run; what needs the step is skipped then.
    """

    name: str
    perfect: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    step: Mapping[str, Mapping[str, Any]]
    others: Mapping[str, Any]
    wrong: tuple[tuple[str, Any, str], ...]
    dims: tuple[int, ...] = (2, 3)
    knobs: Mapping[str, Any] = field(default_factory=dict)
    least_iou: float = 0.9
    needs: str | None = None


def examples() -> list[Example]:
    """All of them, by name."""
    names = sorted(file.stem for file in Path(__file__).parent.glob("[a-z]*.py"))
    return [import_module(f"parallel_examples.{name}").EXAMPLE for name in names]
