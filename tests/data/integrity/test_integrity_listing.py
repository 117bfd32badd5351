from __future__ import annotations

from pathlib import Path

import pytest
from integrity_examples import case, names

from medexp.data.integrity.listing import listing_faults


def test_cases_of_their_own_ids_groups_and_formats_have_no_fault() -> None:
    cases = [case("a"), case("b", split="test"), case("c", fold=1), case("ä ö/ü")]
    assert list(listing_faults(cases)) == []


def test_an_id_that_occurs_twice_is_told_once_with_its_files() -> None:
    cases = [case("a", images=(Path("1.png"),)), case("b"), case("a", images=(Path("2.png"),))]
    (fault,) = listing_faults(cases)
    assert (fault.check, fault.case_id) == ("duplicate_case_id", "a")
    assert "2 cases (1.png, 2.png)" in fault.found


@pytest.mark.parametrize(
    ("one", "other"),
    [("Liver", "liver"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "stra\u00dfe"), ("\u00c4", "a\u0308")],
)
def test_ids_that_a_file_system_may_take_for_one_are_told(one: str, other: str) -> None:
    (fault,) = listing_faults([case(one), case("else"), case(other)])
    assert (fault.check, fault.case_id) == ("colliding_case_id", other)
    assert repr(one) in fault.found


@pytest.mark.parametrize(("case_id", "wrong"), [("", True), ("x" * 201, True), ("x" * 200, False), ("ä" * 34, True)])
def test_an_id_that_is_no_file_name_is_told(case_id: str, wrong: bool) -> None:
    assert names(list(listing_faults([case(case_id)]))) == (["unfit_case_id"] if wrong else [])


def test_the_cases_of_a_tested_patient_that_are_not_tested_are_told() -> None:
    cases = [case("a", group="p", split="train"), case("b", group="p", split="test"), case("c", group="p", split="val")]
    faults = list(listing_faults([*cases, case("d", group="q", split="train")]))
    assert [(fault.check, fault.case_id, fault.found) for fault in faults] == [
        ("group_in_two_parts", "a", "train"),
        ("group_in_two_parts", "c", "val"),
    ]
    assert "case b" in faults[0].expected
    assert "patient) p" in faults[0].remedy


def test_a_case_without_a_split_beside_a_tested_one_of_its_patient_is_told() -> None:
    (fault,) = listing_faults([case("a", group="p"), case("b", group="p", split="test")])
    assert (fault.case_id, fault.found) == ("a", "no split")


def test_a_patient_in_two_folds_is_told() -> None:
    cases = [case("a", group="p", fold=0), case("b", group="p", fold=0), case("c", group="p", fold=2)]
    (fault,) = listing_faults(cases)
    assert (fault.check, fault.case_id, fault.found) == ("group_in_two_parts", "c", "fold 2")
