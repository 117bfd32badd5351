from __future__ import annotations

from pathlib import Path

import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits import LaterFrames

SEQUENCES = {"b": (4, 5, 6), "a": tuple(range(10, 19))}


def _frames() -> list[Case]:
    return [
        Case(f"{name}_t{frame}", name, (Path("t.tif"),), facts={"frame": frame})
        for name, numbers in SEQUENCES.items()
        for frame in reversed(numbers)
    ]


def test_the_last_frames_of_each_sequence_are_held_out() -> None:
    parts = LaterFrames(val=1 / 3)(_frames(), fold=0)
    assert [case.case_id for case in parts.val] == ["b_t6", "a_t18", "a_t17", "a_t16"]
    assert [case.case_id for case in parts.train] == ["b_t5", "b_t4", *(f"a_t{n}" for n in range(15, 9, -1))]
    assert parts.test == ()


def test_each_held_out_sequence_is_one_independent_unit() -> None:
    parts = LaterFrames(val=1 / 3)(_frames(), fold=0)
    assert {case.group for case in parts.val} == {"b from 6", "a from 16"}
    assert {case.group for case in parts.train} == {"a", "b"}


def test_frames_of_a_gap_are_in_no_part_and_short_sequences_may_vanish_from_training() -> None:
    parts = LaterFrames(val=1 / 3, gap=2)(_frames(), fold=0)
    assert [case.case_id for case in parts.train] == ["a_t13", "a_t12", "a_t11", "a_t10"]
    assert len(parts.val) == 4


def test_cases_that_are_set_apart_stay_apart() -> None:
    apart = Case("c_t0", "c", (Path("t.tif"),), split="test", facts={"frame": 0})
    assert LaterFrames(val=0.5)([*_frames(), apart], fold=0).test == (apart,)


def test_what_is_no_sequence_cannot_be_divided_so() -> None:
    with pytest.raises(DataError, match="case x is no frame of a sequence"):
        LaterFrames(val=0.5)([Case("x", "p", (Path("x.nii"),))], fold=0)
    with pytest.raises(DataError, match="the training part is empty"):
        LaterFrames(val=0.5, gap=9)(_frames(), fold=0)
    with pytest.raises(UsageError, match="fold needs 0 with dataset/split=later_frames"):
        LaterFrames(val=0.5)(_frames(), fold=1)
    with pytest.raises(UsageError, match=r"dataset\.split\.val needs a share above 0 and below 1, got 1\.0"):
        LaterFrames(val=1.0)
    with pytest.raises(UsageError, match=r"dataset\.split\.gap needs 0 or more frames, got -1"):
        LaterFrames(val=0.5, gap=-1)
