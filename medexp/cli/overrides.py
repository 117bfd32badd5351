"""What the user typed: ranges expanded, sweeps dealt out to jobs, axes named."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from medexp.core.config import is_place
from medexp.core.errors import UsageError

_RANGE = re.compile(r"^(?P<key>[\w.]+)=(?P<first>-?\d+)\.\.(?P<last>-?\d+)$")


@dataclass(frozen=True)
class Sweep:
    """The user's overrides, one at a time.

    Attributes:
        typed: As they go to Hydra.
        parsed: As Hydra reads them.
    """

    typed: tuple[str, ...]
    parsed: tuple[Override, ...]

    @property
    def swept(self) -> list[str]:
        """Keys that take several values."""
        return [override.key_or_group for override in self.parsed if override.is_sweep_override()]

    def jobs(self) -> list[list[str]]:
        """The overrides of each job, in the order in which Hydra's basic sweeper counts them."""
        choices = [
            [f"{override.get_key_element()}={value}" for value in _values(override)]
            if override.is_sweep_override()
            else [typed]
            for typed, override in zip(self.typed, self.parsed, strict=True)
        ]
        return [list(job) for job in itertools.product(*choices)]


def _values(override: Override) -> list[str]:
    return [str(value) for value in override.sweep_string_iterator()]


def expand_range(typed: str) -> str:
    """`seed=0..4` becomes `seed=0,1,2,3,4`, which Hydra understands.

    >>> expand_range("seed=0..2")
    'seed=0,1,2'
    """
    found = _RANGE.match(typed)
    if found is None:
        return typed
    first, last = int(found["first"]), int(found["last"])
    if last < first:
        raise UsageError(f"{typed} is an empty range; write {found['key']}={last}..{first}")
    return f"{found['key']}={','.join(map(str, range(first, last + 1)))}"


def rewrite(typed: str) -> str:
    """A chain by its group's name becomes a list of steps, in which a step may occur twice.

    >>> rewrite("post_processing=[argmax,keep_largest]")
    'post_processing.steps=[argmax,keep_largest]'
    """
    if not typed.startswith("post_processing="):
        return typed
    value = typed.removeprefix("post_processing=")
    return f"post_processing.steps={value if value.startswith('[') else f'[{value}]'}"


def parse(typed: Sequence[str]) -> Sweep:
    """Read overrides as Hydra does.

    Raises:
        UsageError: Hydra cannot read one of them.
    """
    rewritten = [rewrite(expand_range(item)) for item in typed]
    parser = OverridesParser.create()
    parsed = []
    for item in rewritten:
        try:
            parsed.append(parser.parse_override(item))
        except OverrideParseException as error:
            raise UsageError(f"cannot read the override {item}: {str(error).splitlines()[0]}") from None
    return Sweep(typed=tuple(rewritten), parsed=tuple(parsed))


def axes_of(job: Sequence[str]) -> dict[str, str]:
    """What distinguishes a job within its study: its overrides, without places, launcher and tracking."""
    axes = {}
    for item in job:
        key, _, value = item.partition("=")
        name = key.lstrip("+~")
        if not is_place(name) and name.split(".")[0].split("/")[0] != "hydra":
            axes[name] = value.strip("'\"")
    return axes
