"""Splitting cases some of which may be at fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medexp.core.errors import DataError
from medexp.core.faults import Fault, Severity
from medexp.core.types import Case
from medexp.data.integrity.across import Measured
from medexp.data.integrity.checks import fault
from medexp.data.integrity.measurement import Measurement
from medexp.data.integrity.policy import Mode, Policy
from medexp.data.splits import Contents, Known, Parts, Split

_CUT = "group_in_two_parts"
# What makes a split impossible or ambiguous.
_BEFORE_SPLIT = ("duplicate_case_id", _CUT)


def split_cases(
    cases: Sequence[Case], listed: Sequence[Fault], split: Split | None, *, fold: int, policy: Policy
) -> tuple[Parts | None, tuple[Fault, ...]]:
    """The parts of a dataset, or why there are none.

    Cases at fault take part in the split, so that the folds of the others stay as they are when they are repaired;
    where cases are left out, only those without which there is no split are left out before.

    Args:
        cases: All cases.
        listed: What is wrong with the list of cases.
        split: Divides them; None where they are not divided.
        fold: Number of the fold that is held out.
        policy: Whether cases are left out.

    Returns:
        The parts if there are any, and what the split found wrong.
    """
    blocking = {one.case_id for one in listed if one.check in _BEFORE_SPLIT and one.severity is Severity.ERROR}
    quarantine = policy.mode is Mode.QUARANTINE
    if split is None or (blocking and not quarantine):
        return None, ()
    parts, faults = _attempt([case for case in cases if case.case_id not in blocking], split, fold=fold)
    if parts is None and quarantine and all(one.check == _CUT and one.case_id for one in faults):
        blocking |= {one.case_id for one in faults}
        parts, further = _attempt([case for case in cases if case.case_id not in blocking], split, fold=fold)
        faults += further
    return parts, faults


def _attempt(cases: Sequence[Case], split: Split, *, fold: int) -> tuple[Parts | None, tuple[Fault, ...]]:
    try:
        return split(cases, fold=fold), ()
    except DataError as error:
        found, _, remedy = str(error).rpartition("; ")
        quoted = fault(
            "unfit_split",
            expected="cases that can be split",
            found=found or remedy,
            remedy=remedy if found else "correct the split or the dataset",
        )
        return None, error.faults or (quoted,)


def known_from(labels: Mapping[int, str], measured: Measured) -> Known:
    """What a split may ask of cases that were measured; the others show nothing."""
    by_id = {case.case_id: seen.used for case, seen in measured}
    return Known(labels=labels, contents=lambda cases: {c.case_id: _contents(by_id.get(c.case_id)) for c in cases})


def _contents(seen: Measurement | None) -> Contents:
    if seen is None:
        return Contents(image_labels=())
    amounts: dict[int, float] = {}
    if seen.mask is not None:
        volume = seen.geometry.voxel_volume_mm3
        amounts = {label: voxels * volume for label, voxels in seen.mask.voxels.items()}
    elif seen.objects is not None:
        for label in seen.objects.labels:
            amounts[label] = amounts.get(label, 0.0) + 1
    return Contents(image_labels=seen.image_labels, amounts=amounts)
