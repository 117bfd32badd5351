"""What a search may vary: for each key the values that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

from medexp.core.errors import UsageError


@dataclass(frozen=True)
class Choices:
    """One of several values.

    Attributes:
        values: As an override spells them.
    """

    values: tuple[str, ...]

    @property
    def listed(self) -> tuple[str, ...]:
        """All values."""
        return self.values

    @property
    def probe(self) -> str:
        """Any value."""
        return self.values[0]

    def spelt(self, value: str) -> str:
        """A value as an override spells it."""
        return value

    def as_plain(self) -> dict[str, object]:
        """The same as plain values for JSON."""
        return {"values": list(self.values)}


@dataclass(frozen=True)
class Numbers:
    """A number of an interval, both ends included.

    Attributes:
        low: The least.
        high: The largest.
        whole: Whether it is a whole number.
        step: Distance of neighbouring values; None for any number between.
        log: Whether it is drawn on a logarithmic scale.
    """

    low: int | float
    high: int | float
    whole: bool
    step: int | float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise UsageError(f"the interval from {self.low} to {self.high} is empty; give the lower end first")
        if self.log and not self.low > 0:
            raise UsageError(f"a logarithmic scale needs numbers above 0, got an interval from {self.low}")
        if self.log and self.step not in (None, 1):
            raise UsageError(f"a logarithmic scale has no step, got a range in steps of {self.step}; use an interval")

    @property
    def listed(self) -> tuple[str, ...] | None:
        """All values of a range; None for an interval, which has too many to be listed."""
        if self.step is None:
            return None
        count = round((self.high - self.low) / self.step) + 1
        return tuple(self.spelt(self.low + i * self.step) for i in range(count))

    @property
    def probe(self) -> str:
        """Any value."""
        return self.spelt(self.low)

    def spelt(self, value: int | float) -> str:
        """A value as an override spells it."""
        return str(round(value)) if self.whole else repr(float(value))

    def as_plain(self) -> dict[str, object]:
        """The same as plain values for JSON."""
        return {"low": self.low, "high": self.high, "whole": self.whole, "step": self.step, "log": self.log}


Domain = Choices | Numbers
Space = Mapping[str, Domain]


def combinations(space: Space) -> Iterator[dict[str, str]]:
    """Every combination of values, the last key's the fastest.

    Args:
        space: The values by key.

    Yields:
        A value by key, as an override spells it.

    Raises:
        UsageError: The values of a key cannot be listed.
    """
    listed = _all_listed(space)
    for values in product(*listed.values()):
        yield dict(zip(listed, values, strict=True))


def count_combinations(space: Space) -> int:
    """How many combinations there are; UsageError where the values of a key cannot be listed."""
    return prod(map(len, _all_listed(space).values()))


def _all_listed(space: Space) -> dict[str, tuple[str, ...]]:
    listed = {key: domain.listed for key, domain in space.items()}
    for key, values in listed.items():
        if values is None:
            raise UsageError(
                f"a grid needs values, and {key} is an interval; write {key}=A,B,C or {key}=range(A,B,STEP)"
            )
    return {key: values for key, values in listed.items() if values is not None}
