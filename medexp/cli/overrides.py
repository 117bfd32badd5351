"""What the user typed: ranges expanded, sweeps dealt out to jobs, axes named."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from medexp.core.config import is_place
from medexp.core.errors import UsageError
from medexp.search.space import Choices, Domain, Numbers

_RANGE = re.compile(r"^(?P<key>[\w.]+)=(?P<first>-?\d+)\.\.(?P<last>-?\d+)$")
_CHAIN = "post_processing"
# What medexp itself adds to a job's overrides.
_OWN = "experiment"


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
        """The overrides of each job, spelt and ordered as Hydra's basic sweeper does; of two for a key the last.

        Returns:
            A list of overrides for each combination of values.

        Raises:
            UsageError: A key takes values that cannot be listed.
        """
        for override in self.parsed:
            if override.is_interval_sweep():
                raise UsageError(
                    f"{override.input_line} is an interval, and a sweep needs values; write "
                    f"{override.key_or_group}=A,B,C, or search in it with search=optuna"
                )
        choices = {override.get_key_element(): _spelt(override) for override in self.parsed}
        return [list(job) for job in itertools.product(*choices.values())]

    def space(self) -> dict[str, Domain]:
        """What a search may vary: the values of each swept key."""
        return {
            override.get_key_element(): _domain(override) for override in self.parsed if override.is_sweep_override()
        }

    def with_values(self, values: Mapping[str, str]) -> list[str]:
        """The overrides of one job.

        Args:
            values: A value for each swept key.

        Returns:
            The overrides; of two for a key the last.
        """
        spelt = {
            key: f"{key}={values[key]}" if override.is_sweep_override() else _spelt(override)[0]
            for override in self.parsed
            for key in [override.get_key_element()]
        }
        return list(spelt.values())


def _domain(override: Override) -> Domain:
    """The values of a sweep: an interval or a range of numbers, else a choice."""
    sweep = override.value()
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        return Numbers(sweep.start, sweep.end, whole=whole, log=log)
    if isinstance(sweep, RangeSweep) and sweep.step > 0:
        values = list(sweep.range())
        whole = all(isinstance(value, int) for value in values)
        if values:
            return Numbers(values[0], values[-1], whole=whole, step=sweep.step, log=log)
    return Choices(tuple(dict.fromkeys(override.sweep_string_iterator())))


def _spelt(override: Override) -> list[str]:
    key = override.get_key_element()
    if override.is_sweep_override():
        return [f"{key}={value}" for value in override.sweep_string_iterator()]
    if override.value_type is None:
        return [key]
    return [f"{key}={override.get_value_element_as_str()}"]


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
    if not typed.startswith(f"{_CHAIN}="):
        return typed
    value = typed.removeprefix(f"{_CHAIN}=")
    return f"{_CHAIN}.steps={value if value.startswith('[') else f'[{value}]'}"


def parse(typed: Sequence[str]) -> Sweep:
    """Read overrides as Hydra does.

    Args:
        typed: As on the command line.

    Returns:
        What they say.

    Raises:
        UsageError: Hydra cannot read one of them.
    """
    rewritten = [rewrite(expand_range(item)) for item in typed]
    parsed = []
    for item in rewritten:
        try:
            parsed.append(_parsed(item))
        except HydraException as error:
            raise UsageError(f"cannot read the override {item}: {str(error).splitlines()[0]}") from None
        if not parsed[-1].key_or_group:
            raise UsageError(f"cannot read the override {item}: it has no key; write KEY=VALUE")
    return Sweep(typed=tuple(rewritten), parsed=tuple(parsed))


@functools.lru_cache(maxsize=1024)
def _parsed(item: str) -> Override:
    """One override, which is asked for at every step of a composition; to be read only."""
    override: Override = OverridesParser.create().parse_override(item)
    return override


def axes_of(job: Sequence[str]) -> dict[str, str]:
    """What distinguishes a job within its study: its overrides, without places, launcher and tracking.

    >>> axes_of(["loss='dice'", "optimizer.lr=1e-3", "study=first", "post_processing=[argmax]"])
    {'loss': 'dice', 'optimizer.lr': '0.001', 'post_processing': '[argmax]'}
    >>> axes_of(["dataset/split=holdout"])
    {'dataset.split': 'holdout'}
    """
    axes = {}
    for override in parse(job).parsed:
        name = override.key_or_group
        if is_place(name.replace("/", ".")) or name == _OWN or is_hydras(name):
            continue
        prefix = "~" if override.is_delete() else ""
        axes[prefix + (_CHAIN if name == f"{_CHAIN}.steps" else name.replace("/", "."))] = _plainly(override)
    return axes


def _plainly(override: Override) -> str:
    """The value as one would say it: without quotes, the same however it was spelt."""
    value = override.value() if override.value_type is not None else ""
    if isinstance(value, str):
        return value
    return str(value).lower() if isinstance(value, bool) else override.get_value_element_as_str()


def is_searchs(key: str) -> bool:
    """Whether a key chooses a search, or a knob of it."""
    return re.split(r"[./]", key, maxsplit=1)[0] == "search"


def is_hydras(key: str) -> bool:
    """Whether a key belongs to Hydra itself, its launchers and sweepers."""
    return re.split(r"[./]", key, maxsplit=1)[0] == "hydra"


def quoted(text: Any) -> str:
    """A text as a value in Hydra's syntax."""
    escaped = str(text).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def quoted_list(texts: Iterable[Any]) -> str:
    """Texts as a list in Hydra's syntax."""
    return f"[{','.join(map(quoted, texts))}]"
