"""Which chains of post-processing are tried: what the command line lists, or what is usual."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from medexp.core.errors import UsageError, did_you_mean

Steps = list[dict[str, Any]]
# Values that are tried of a knob: factors of what it is, or values.
_FACTORS = {
    "min_volume_mm3": (0.0, 0.3, 1.0, 3.0, 10.0, 30.0),
    "radius_mm": (0.5, 1.0, 2.0),
    "sigma_mm": (0.5, 1.0, 2.0),
    "min_distance_mm": (0.5, 1.0, 2.0),
}
_VALUES = {
    "threshold": (0.3, 0.4, 0.5, 0.6, 0.7),
    "low": (0.2, 0.3, 0.4, 0.5),
    "high": (0.5, 0.6, 0.7, 0.8, 0.9),
    "min_score": (0.1, 0.2, 0.3, 0.4, 0.5),
}
_MOST = 500
_CHAIN = "post_processing.steps"


def usual_chains(steps: Steps, additions: Sequence[Steps]) -> list[Steps]:
    """The chains that are tried unless others are asked for.

    Args:
        steps: The run's own chain.
        additions: Steps that may follow it.

    Returns:
        The run's own chain, its knobs varied one by one around their values, and each addition behind it.
    """
    varied = [
        [*steps[:place], {**step, knob: value}, *steps[place + 1 :]]
        for place, step in enumerate(steps)
        for knob, given in step.items()
        for value in _usual_values(knob, given)
    ]
    return unique([steps, *varied, *([*steps, *more] for more in additions)])


def _usual_values(knob: str, given: Any) -> list[float]:
    if not isinstance(given, int | float) or isinstance(given, bool):
        return []
    return [factor * given for factor in _FACTORS.get(knob, ())] + list(_VALUES.get(knob, ()))


def grid_chains(own: Steps, chains: Sequence[Steps], grid: Mapping[str, Sequence[Any]]) -> list[Steps]:
    """The run's own chain, and others with each combination of values.

    Args:
        own: The run's own chain.
        chains: Chains whose knobs are set; the run's own where there is none.
        grid: Values by key, e.g. `post_processing.steps.1.min_volume_mm3`.

    Returns:
        The run's own chain as it is, then all combinations.

    Raises:
        UsageError: A key is no knob of a chain, or there are too many combinations.
    """
    bases = chains or [own]
    knobs = [(key, *_place_and_knob(key)) for key in grid]
    count = len(bases) * math.prod(len(values) for values in grid.values())
    if count > _MOST:
        raise UsageError(f"the grid has {count} chains, at most {_MOST} are tried; give fewer values")
    found = [own]
    for base in bases:
        for key, place, knob in knobs:
            _check_knob(base, key, place, knob)
        for combination in itertools.product(*grid.values()):
            changed = [dict(step) for step in base]
            for (_, place, knob), value in zip(knobs, combination, strict=True):
                changed[place][knob] = value
            found.append(changed)
    return unique(found)


def unique(chains: Sequence[Steps]) -> list[Steps]:
    """The chains without repetitions, in order."""
    return [chain for place, chain in enumerate(chains) if chain not in chains[:place]]


def _place_and_knob(key: str) -> tuple[int, str]:
    place, _, knob = key.removeprefix(f"{_CHAIN}.").partition(".")
    if not key.startswith(f"{_CHAIN}.") or not place.isdigit() or not knob:
        raise UsageError(
            f"{key} is not tuned; write {_CHAIN}.PLACE.KNOB=A,B,C with the place of the step in the chain, from 0 on, "
            "or post_processing=[STEP,...],[STEP,...]"
        )
    return int(place), knob


def _check_knob(chain: Steps, key: str, place: int, knob: str) -> None:
    if place >= len(chain):
        raise UsageError(f"{key}: the chain has {len(chain)} steps, the first is 0")
    known = [name for name in chain[place] if name != "_target_"]
    if knob not in known:
        name = chain[place]["_target_"].rsplit(".", 1)[-1]
        raise UsageError(
            f"{key}: step {name} has no knob {knob}{did_you_mean(knob, known)} (known: {', '.join(known)})"
        )
