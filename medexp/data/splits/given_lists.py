"""Divisions that are given as lists of case ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medexp.core.errors import DataError, UsageError, did_you_mean
from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data.splits._files import Lists, read_division, read_ids
from medexp.data.splits.drawing import Draw
from medexp.data.splits.parts import NAMES, Parts
from medexp.data.splits.strata import Strata

_UNLISTED = ("error", "leave_out", "train")
_SHOWN = 5


class GivenLists:
    """Parts by lists of case ids, from one file that holds all of them or from one text file a part.

    The file is nnU-Net's splits_final.json (a list of `{"train": [...], "val": [...]}`, one a fold), one such mapping
    (a run's split.json too), or a CSV with a column case_id and a column split (train, val, test) or fold. An id may
    carry the ending of its file. Without any training list all cases that no list names are training cases; cases that
    the dataset sets apart as "test" stay so where no list names test cases.

    Args:
        file: The file; None where lists are given.
        train_list: Text file with an id a line.
        val_list: The same for held-out cases.
        test_list: The same for a test part.
        unlisted: What becomes of a case that stands in no list: "error", "leave_out", or "train".
        seed: Seed of the draws.
        stratify: What each draw has its share of, as in `KFold`.
        stratify_classes: Names of the labels that are looked at; None: all but the background.
        stratify_quantiles: Number of strata of the load.
        n_train: How many training cases are drawn; None for all.
        draw: Number of the draw.

    Raises:
        UsageError: Neither a file nor lists are given, or both, or another knob has an unfit value.
    """

    def __init__(
        self,
        *,
        file: str | None,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        unlisted: str = "error",
        seed: int = 0,
        stratify: str | None = None,
        stratify_classes: Sequence[str] | None = None,
        stratify_quantiles: int = 4,
        n_train: int | None = None,
        draw: int = 0,
    ) -> None:
        lists = {"train": train_list, "val": val_list, "test": test_list}
        if (file is None) == (not any(lists.values())):
            raise UsageError(
                "dataset/split=given needs dataset.split.file or lists (train_list, val_list, test_list), not both, "
                f"got file={file} and {sum(map(bool, lists.values()))} lists"
            )
        if unlisted not in _UNLISTED:
            raise UsageError(f"dataset.split.unlisted needs {' or '.join(_UNLISTED)}, got {unlisted}")
        self.file = None if file is None else Path(file).expanduser()
        self.lists = {name: Path(path).expanduser() for name, path in lists.items() if path}
        self.unlisted = unlisted
        self.strata = Strata(by=stratify, classes=stratify_classes, quantiles=stratify_quantiles)
        self.draw = Draw(n_train=n_train, draw=draw, seed=seed)

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts of one division.

        Args:
            cases: All cases of the dataset.
            fold: Number of the division in the file.

        Returns:
            The parts, with the cases in the order of the dataset.

        Raises:
            UsageError: A file is not there, or has no such division.
            DataError: A file cannot be read; names every id that is unknown or stands in two lists, and the cases that
                stand in none.
        """
        lists = self._read(fold)
        where = str(self.file or ", ".join(map(str, self.lists.values())))
        part_of, faults = _resolved(lists, cases, where)
        if faults:
            raise DataError.of(*faults)
        rest = "train" if not lists.get("train") else self.unlisted
        for case in cases:
            if case.case_id not in part_of:
                part_of[case.case_id] = "test" if case.split == "test" and not lists.get("test") else rest
        missing = [case.case_id for case in cases if part_of[case.case_id] == "error"]
        if missing:
            raise DataError(
                f"{where} names no part for {len(missing)} of {len(cases)} cases ({_some(missing)}); add them, or set "
                "dataset.split.unlisted to leave_out or train"
            )
        parts = Parts(**{name: tuple(case for case in cases if part_of[case.case_id] == name) for name in NAMES})
        return self.draw(parts, self.strata)

    def _read(self, fold: int) -> Lists:
        if self.file is not None:
            return read_division(self.file, fold=fold)
        if fold != 0:
            raise UsageError(f"fold needs 0 where dataset.split gives one list a part, got {fold}")
        return {name: read_ids(path) for name, path in self.lists.items()}


def _resolved(lists: Lists, cases: Sequence[Case], where: str) -> tuple[dict[str, str], list[Fault]]:
    """The part of each listed case, and what is wrong with the lists."""
    known = {case.case_id for case in cases}
    part_of: dict[str, str] = {}
    faults = []
    for name, ids in lists.items():
        unknown = []
        for listed in ids:
            case_id = listed if listed in known else _without_ending(listed)
            if case_id not in known:
                unknown.append(listed)
            elif part_of.setdefault(case_id, name) != name:
                faults.append(_twice(case_id, part_of[case_id], name, where))
        faults += _unknown(unknown, known, name, where)
    return part_of, faults


def _twice(case_id: str, first: str, second: str, where: str) -> Fault:
    return Fault(
        check="case_in_two_parts",
        case_id=case_id,
        expected=f"one part in {where}",
        found=f"{first} and {second}",
        remedy="remove it from one of the lists",
    )


def _unknown(ids: Sequence[str], known: set[str], name: str, where: str) -> Iterator[Fault]:
    if ids:
        near = did_you_mean(ids[0], known)
        yield Fault(
            check="unknown_case",
            expected=f"each case of the {name} list in {where}",
            found=f"no case {_some(ids)}",
            remedy=f"correct the list, or restore the files{near}",
        )


def _without_ending(listed: str) -> str:
    """An id without the ending of a file."""
    short = listed.removesuffix(".gz")
    return short.removesuffix(Path(short).suffix)


def _some(ids: Sequence[str]) -> str:
    rest = len(ids) - _SHOWN
    return ", ".join(ids[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
