"""The parts of a dataset, and what divides it into them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault
from medexp.core.hashing import hash_plain
from medexp.core.types import Case

NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Parts:
    """The parts of a dataset in one fold.

    Attributes:
        train: Cases that the network learns from.
        val: Held-out cases of this fold.
        test: Cases that the dataset sets apart, if it does.
    """

    train: tuple[Case, ...]
    val: tuple[Case, ...]
    test: tuple[Case, ...]

    def __post_init__(self) -> None:
        cut = list(self._cut_groups())
        if cut:
            raise DataError.of(*cut)
        if not self.train:
            raise DataError("the training part is empty; check the split and the dataset's folder")

    @property
    def evaluated(self) -> tuple[str, tuple[Case, ...]]:
        """Name and cases of the part that results are reported on: test where there is one, else val."""
        return ("test", self.test) if self.test else ("val", self.val)

    @property
    def hash(self) -> str:
        """Hash of the case ids of each part."""
        return hash_plain({name: sorted(ids) for name, ids in self._ids().items()})

    def as_plain(self) -> dict[str, Any]:
        """The case ids of each part, in the order of the dataset, and their hash; `GivenLists` reads it."""
        return {"hash": self.hash, **self._ids()}

    def _ids(self) -> dict[str, list[str]]:
        return {name: [case.case_id for case in getattr(self, name)] for name in NAMES}

    def _cut_groups(self) -> Iterator[Fault]:
        home: dict[str, tuple[str, Case]] = {}
        for name in NAMES:
            for case in getattr(self, name):
                part, first = home.setdefault(case.group, (name, case))
                if part != name:
                    yield Fault(
                        check="group_in_two_parts",
                        case_id=case.case_id,
                        expected=f"the part of its group {case.group}, {part} (case {first.case_id})",
                        found=name,
                        remedy="a group (patient) must not be cut by a split; bring all its cases into one part",
                    )


@runtime_checkable
class Split(Protocol):
    """Divides the cases of a dataset."""

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts of one fold."""
        ...


def set_apart(cases: Sequence[Case]) -> tuple[list[Case], tuple[Case, ...]]:
    """The cases that one may learn from, and those that the dataset sets apart as its test part."""
    return [case for case in cases if case.split != "test"], tuple(case for case in cases if case.split == "test")


def check_only_fold(fold: int, *, split: str, instead: str) -> None:
    """Refuse a fold of a split that has one division only.

    Args:
        fold: What is asked for.
        split: Name of the split's option.
        instead: What gives another division, to follow "for another division".

    Raises:
        UsageError: It is not 0.
    """
    if fold != 0:
        raise UsageError(f"fold needs 0 with dataset/split={split}, which has one division, got {fold}; {instead}")
