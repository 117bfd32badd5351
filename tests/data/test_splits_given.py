"""Parts by lists of case ids in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits import GivenLists, KFold

CASES = [Case(f"case_{i}", f"p{i}", (Path(f"{i}.nii"),)) for i in range(6)]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str], str]:
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def ids(cases: Sequence[Case]) -> str:
    return " ".join(case.case_id.removeprefix("case_") for case in cases)


def names(numbers: str) -> list[str]:
    return [f"case_{number}" for number in numbers.split()]


def test_folds_of_nnunets_splits_final_json(written):
    divisions = [{"train": names("0 1 2 3"), "val": names("4 5")}, {"train": names("5 4 3 2"), "val": names("1 0")}]
    split = GivenLists(file=written("splits_final.json", json.dumps(divisions)))
    assert [(ids(p.train), ids(p.val)) for p in (split(CASES, fold=0), split(CASES, fold=1))] == [
        ("0 1 2 3", "4 5"),
        ("2 3 4 5", "0 1"),
    ]
    with pytest.raises(UsageError, match=r"fold needs 0\.\.1, the divisions of .*splits_final\.json, got 2"):
        split(CASES, fold=2)


def test_the_split_of_a_run_can_be_given_to_another(written):
    parts = KFold(n_folds=3, seed=4)(CASES, fold=1)
    file = written("split.json", json.dumps(parts.as_plain()))
    assert GivenLists(file=file)(CASES[::-1], fold=0).hash == parts.hash


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_a_part_for_each_case(delimiter, written):
    rows = [
        f"case_{i}{delimiter}{part}{delimiter}x"
        for i, part in enumerate(["train", "val", "test", "train", "val", "test"])
    ]
    text = "\n".join([delimiter.join(["case_id", "split", "comment"]), *rows])
    parts = GivenLists(file=written("split.csv", text))(CASES, fold=0)
    assert (ids(parts.train), ids(parts.val), ids(parts.test)) == ("0 3", "1 4", "2 5")


def test_a_table_as_spreadsheets_write_it(written):
    text = '\ufeff"case_id","split"\r\n"case_0","train"\r\n"case_1","val"\r\n'
    parts = GivenLists(file=written("split.csv", text), unlisted="leave_out")(CASES, fold=0)
    assert (ids(parts.train), ids(parts.val)) == ("0", "1")


def test_a_table_with_a_fold_for_each_case(written):
    file = written("split.csv", "fold,case_id\n" + "".join(f"{i % 3},case_{i}\n" for i in range(6)))
    parts = GivenLists(file=file)(CASES, fold=2)
    assert (ids(parts.train), ids(parts.val)) == ("0 1 3 4", "2 5")
    with pytest.raises(UsageError, match=r"fold needs 0\.\.2"):
        GivenLists(file=file)(CASES, fold=3)


def test_text_files_with_an_id_a_line(written):
    val, test = written("val.txt", "case_1\n\n case_4 \n"), written("test.txt", "case_2.nii.gz\ncase_5.png\n")
    parts = GivenLists(file=None, val_list=val, test_list=test)(CASES, fold=0)
    assert (ids(parts.train), ids(parts.val), ids(parts.test)) == ("0 3", "1 4", "2 5")
    with pytest.raises(UsageError, match=r"fold needs 0 where dataset\.split gives one list a part, got 1"):
        GivenLists(file=None, val_list=val)(CASES, fold=1)


def test_an_id_that_ends_like_a_file_is_taken_as_it_is_where_there_is_such_a_case(written):
    cases = [Case(name, name, ()) for name in ("a.1", "a", "b")]
    parts = GivenLists(file=None, val_list=written("val.txt", "a.1\n"))(cases, fold=0)
    assert [case.case_id for case in parts.val] == ["a.1"]


def test_what_the_dataset_sets_apart_stays_apart_where_no_list_names_test_cases(written):
    cases = [*CASES[:5], replace(CASES[5], split="test")]
    lists = {"train": names("0 1 2"), "val": names("3 4")}
    assert ids(GivenLists(file=written("a.json", json.dumps(lists)))(cases, fold=0).test) == "5"
    lists = {"train": names("0 1 2"), "val": names("3"), "test": names("4")}
    split = GivenLists(file=written("b.json", json.dumps(lists)), unlisted="leave_out")
    assert ids(split(cases, fold=0).test) == "4"


@pytest.mark.parametrize(("unlisted", "train"), [("leave_out", "0 1"), ("train", "0 1 4 5")])
def test_cases_that_stand_in_no_list(unlisted, train, written):
    file = written("a.json", json.dumps({"train": names("0 1"), "val": names("2 3")}))
    parts = GivenLists(file=file, unlisted=unlisted)(CASES, fold=0)
    assert (ids(parts.train), ids(parts.val)) == (train, "2 3")
    with pytest.raises(DataError, match=r"names no part for 2 of 6 cases \(case_4, case_5\); add them, or set"):
        GivenLists(file=file)(CASES, fold=0)


def test_everything_that_is_wrong_with_the_lists_is_told_at_once(written):
    lists = {"train": [*names("0 1 2"), "caes_3", "gone"], "val": [*names("3 2 1"), "nowhere"]}
    with pytest.raises(DataError) as told:
        GivenLists(file=written("a.json", json.dumps(lists)))(CASES, fold=0)
    found = [(fault.check, fault.case_id, fault.found) for fault in told.value.faults]
    assert found == [
        ("unknown_case", None, "no case caes_3, gone"),
        ("case_in_two_parts", "case_2", "train and val"),
        ("case_in_two_parts", "case_1", "train and val"),
        ("unknown_case", None, "no case nowhere"),
    ]
    assert "did you mean case_3" in str(told.value)


def test_lists_that_cut_a_group_are_refused(written):
    cases = [replace(case, group="same") if i in (0, 3) else case for i, case in enumerate(CASES)]
    file = written("a.json", json.dumps({"train": names("0 1 2"), "val": names("3 4 5")}))
    with pytest.raises(DataError, match="case_3: it needs the part of its group same, train"):
        GivenLists(file=file)(cases, fold=0)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", "{", "is no valid JSON"),
        ("a.json", "[]", r"a list of them, one a fold, got an empty list"),
        ("a.json", '{"training": []}', "got an entry {'training': \\[\\]}"),
        ("a.json", '[{"train": [1, 2]}]', "got an entry {'train': \\[1, 2\\]}"),
        ("a.csv", "id,part\nx,train\n", "needs a column case_id and a column split or fold, got id, part; name"),
        (
            "a.csv",
            "case_id,split\ncase_0,training\n",
            r"column split needs train, val, test, got 'training' \(case case_0\)",
        ),
        ("a.csv", "case_id,fold\ncase_0,1.5\n", r"column fold needs whole numbers from 0 on, got '1\.5'"),
        ("a.csv", "case_id,split\ncase_0\n", "column split needs train, val, test, got ''"),
    ],
)
def test_a_file_of_another_form_is_told(name, text, told, written):
    with pytest.raises(DataError, match=told):
        GivenLists(file=written(name, text))(CASES, fold=0)


def test_a_file_that_is_no_text_is_told(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no UTF-8 text"):
        GivenLists(file=str(tmp_path / "a.json"))(CASES, fold=0)


def test_wrong_use_is_refused(written):
    with pytest.raises(UsageError, match=r"nowhere\.json is not there; give the file that holds the split"):
        GivenLists(file="nowhere.json")(CASES, fold=0)
    with pytest.raises(
        UsageError, match=r"dataset\.split\.file needs a \.json or \.csv file, got .*a\.txt; give text files"
    ):
        GivenLists(file=written("a.txt", "case_0"))(CASES, fold=0)
    for knobs in ({"file": None}, {"file": "a.json", "val_list": "b.txt"}):
        with pytest.raises(UsageError, match=r"needs dataset\.split\.file or lists .*, not both"):
            GivenLists(**knobs)
    with pytest.raises(UsageError, match="unlisted needs error or leave_out or train, got drop"):
        GivenLists(file="a.json", unlisted="drop")
