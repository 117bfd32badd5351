"""Checks of the list of cases, before anything is read."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data.integrity.checks import fault
from medexp.data.integrity.files import image_file

# Most file systems take 255 bytes; endings and a temporary name need some of them.
_LONGEST_NAME = 200


def listing_faults(cases: Sequence[Case]) -> Iterator[Fault]:
    """What is wrong with the list of cases, beside what the source found wrong while it listed them.

    Args:
        cases: All cases.

    Yields:
        The faults.
    """
    for case in cases:
        yield from _unfit_id(case)
    yield from duplicate_ids(cases)
    yield from colliding_ids(cases)
    yield from cut_groups(cases)


def duplicate_ids(cases: Sequence[Case]) -> Iterator[Fault]:
    """A fault for each id that several cases have."""
    for case_id, same in _by(cases, lambda case: case.case_id).items():
        if len(same) > 1:
            files = ", ".join(str(image_file(case)) for case in same[:5])
            yield fault(
                "duplicate_case_id",
                case=same[0],
                file=image_file(same[0]),
                expected="an id of its own",
                found=f"{case_id!r} for {len(same)} cases ({files})",
                remedy="rename all but one of them",
            )


def colliding_ids(cases: Sequence[Case]) -> Iterator[Fault]:
    """A fault for each id that many file systems take for the one of an earlier case."""
    distinct = {case.case_id: case for case in cases}
    for same in _by(list(distinct.values()), lambda case: _as_file_systems_see(case.case_id)).values():
        for case in same[1:]:
            yield fault(
                "colliding_case_id",
                case=case,
                file=image_file(case),
                expected="an id that differs from others by more than upper and lower case or Unicode form",
                found=f"{case.case_id!r} beside {same[0].case_id!r}",
                remedy="rename one of them, since their result files would overwrite each other on some file systems",
            )


def cut_groups(cases: Sequence[Case]) -> Iterator[Fault]:
    """A fault for each case whose split or fold is another one than that of its group.

    A group that stands in the dataset's own "train" and "val" is not cut by a split that draws its folds from both,
    so the split itself tells of that. Where a group is tested, its other cases are at fault.
    """
    for group, members in _by(cases, lambda case: case.group).items():
        tested = [case for case in members if case.split == "test"]
        for case in members if tested else ():
            if case.split != "test":
                yield _cut(
                    case, group, f"the split of its group, test (case {tested[0].case_id})", case.split or "no split"
                )
        folded = [case for case in members if case.fold is not None and case.split != "test"]
        for case in folded[1:]:
            if case.fold != folded[0].fold:
                home = f"the fold of its group, {folded[0].fold} (case {folded[0].case_id})"
                yield _cut(case, group, home, f"fold {case.fold}")


def _cut(case: Case, group: str, expected: str, found: str) -> Fault:
    return fault(
        "group_in_two_parts",
        case=case,
        file=image_file(case),
        expected=expected,
        found=found,
        remedy=f"bring all cases of group (patient) {group} into one part",
    )


def _unfit_id(case: Case) -> Iterator[Fault]:
    length = len(quote(case.case_id, safe=""))
    if 0 < length <= _LONGEST_NAME:
        return
    yield fault(
        "unfit_case_id",
        case=case,
        file=image_file(case),
        expected=f"an id of 1 to {_LONGEST_NAME} letters (others than a-z, A-Z, 0-9 count 3 a byte)",
        found=f"{length}",
        remedy="rename the case; files that are named after it may not be written",
    )


def _as_file_systems_see(case_id: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", case_id).casefold())


def _by(cases: Sequence[Case], key: Callable[[Case], str]) -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[key(case)].append(case)
    return found
