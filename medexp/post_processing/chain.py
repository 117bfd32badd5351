"""A chain of post-processing steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medexp.core.errors import UsageError
from medexp.core.types import Kind, Prediction, Step


class Chain:
    """Apply steps one after the other; a step may occur twice.

    Args:
        steps: The steps, in order; they come from a configuration, so that each is checked to be one.
        takes: What the first step gets.
        gives: What the last step must give.

    Raises:
        UsageError: A step does not take what the one before it gives, or the chain does not end with `gives`.
    """

    def __init__(self, steps: Sequence[Any], *, takes: Kind = Kind.PROBABILITIES, gives: Kind = Kind.MASK) -> None:
        self.takes, self.gives = takes, gives
        self.steps: tuple[Step, ...] = tuple(steps)
        _check(self.steps, self.takes, self.gives)

    def __call__(self, prediction: Prediction) -> Prediction:
        """The prediction after the last step; the argument is left as it was."""
        for step in self.steps:
            prediction = step(prediction)
        return prediction


def _check(steps: tuple[Any, ...], takes: Kind, gives: Kind) -> None:
    have, giver = takes, "the task"
    for position, step in enumerate(steps):
        where = f"post_processing[{position}] ({type(step).__name__})"
        taken = _kinds(getattr(step, "takes", ()))
        given = getattr(step, "gives", "nothing")
        if not taken or not (given is None or isinstance(given, Kind)):
            raise UsageError(f"{where} is no step: it does not say what it takes and gives; check its _target_")
        if have not in taken:
            raise UsageError(f"{where} takes {' or '.join(taken)}, but {giver} gives {have}; {_remedy(have, taken[0])}")
        have, giver = given or have, where
    if have != gives:
        chain = "post_processing" if steps else "an empty post_processing"
        raise UsageError(f"{chain} must end with {gives}, but {giver} gives {have}; {_remedy(have, gives)}")


def _kinds(takes: Any) -> tuple[Kind, ...]:
    """The kinds that a step says it takes; none where it says something else."""
    kinds = takes if isinstance(takes, tuple) else (takes,)
    return kinds if all(isinstance(kind, Kind) for kind in kinds) else ()


def _remedy(have: Kind, need: Kind) -> str:
    if have == Kind.PROBABILITIES and need == Kind.MASK:
        return "put argmax (exclusive classes) or threshold (overlapping regions) at that place"
    if need == Kind.PROBABILITIES:
        return f"move it before the step that makes {have}, or remove it"
    return f"put a step at that place that takes {have} and gives {need}"
