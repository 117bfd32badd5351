"""Checks of whole datasets: all cases in one pass, what is remembered, and what training gets."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Fault, Severity
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data.derive.derived import Derived
from medexp.data.derive.image_label import ImageLabel
from medexp.data.integrity import Policy, Store, Training, check_dataset, checked_parts
from medexp.data.splits import KFold

SPLIT = KFold(n_folds=3, seed=0)


class Folder:
    """A source whose cases are .npy files; it counts how often it reads."""

    name = "folder"
    spatial_dims = 2
    channels = ("image",)
    labels: Mapping[int, str] = MappingProxyType({0: "background", 1: "organ"})
    public = True

    def __init__(self, root: Path, n_cases: int = 6) -> None:
        self.root = root
        self.n_read = 0
        self.listed = {f"case_{number}": {} for number in range(n_cases)}
        root.mkdir(parents=True, exist_ok=True)
        for number in range(n_cases):
            self.write(f"case_{number}", np.random.default_rng(number).normal(size=(1, 12, 10)))

    def write(self, case_id: str, pixels: np.ndarray) -> None:
        np.save(self.root / f"{case_id}.npy", pixels.astype(np.float32))

    def cases(self) -> list[Case]:
        return [
            Case(case_id=case_id, group=case_id, images=(self.root / f"{case_id}.npy",))
            if not knobs
            else replace(Case(case_id=case_id, group=case_id, images=(self.root / f"{case_id}.npy",)), **knobs)
            for case_id, knobs in self.listed.items()
        ]

    def read(self, case: Case) -> Image:
        self.n_read += 1
        if any(fault.severity is Severity.ERROR for fault in case.faults):
            raise DataError.of(*case.faults)
        if not case.images[0].is_file():
            raise DataError(f"case {case.case_id}: {case.images[0]} is missing; restore it")
        pixels = np.load(case.images[0])
        mask = np.zeros(pixels.shape[1:], dtype=np.uint8)
        mask[2:5, 3:6] = 1
        return Image(case, pixels, Annotation(mask=mask), Geometry.from_spacing(mask.shape, (1.0, 1.0), unit="px"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "data")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def new_store(tmp_path: Path, identity: str = "folder") -> Store:
    return Store(folder=tmp_path / "cache", source=Folder(tmp_path / "any"), identity=identity)


def spoil(folder: Folder) -> None:
    """Four bad cases of four kinds."""
    folder.write("case_0", np.full((1, 12, 10), np.nan))
    folder.write("case_1", np.zeros((1, 12, 10)))
    (folder.root / "case_2.npy").unlink()
    (folder.root / "case_3.npy").write_bytes(b"<html>not found</html>")


def checks(report) -> list[tuple[str | None, str]]:
    return [(fault.case_id, fault.check) for fault in report.faults]


def test_a_sound_dataset_has_no_fault(folder: Folder) -> None:
    report = check_dataset(folder, split=SPLIT)
    assert report.faults == ()
    assert [case.case_id for case in report.cases] == list(folder.listed)
    assert checked_parts(report) == SPLIT(folder.cases(), fold=0)
    assert report.summary() == "folder: 6 cases checked, 0 errors, 0 warnings"
    assert report.notes() == []


def test_everything_that_is_wrong_is_named_in_one_pass(folder: Folder) -> None:
    spoil(folder)
    folder.listed["case_4"] = {"faults": (Fault("missing_label", "a label", "none", "add it", case_id="case_4"),)}
    report = check_dataset(folder, split=SPLIT, training=Training(patch_size=(10, 10), strides=(4, 4)))
    assert checks(report) == [
        ("case_4", "missing_label"),
        ("case_2", "unreadable"),
        ("case_3", "unreadable"),
        (None, "patch_not_divisible"),
        ("case_0", "not_finite"),
        ("case_1", "constant_image"),
    ]
    missing = report.faults[1]
    assert "is missing" in missing.found
    assert missing.remedy == "restore it"
    with pytest.raises(DataError) as stopped:
        checked_parts(report)
    assert stopped.value.faults == report.errors
    for case_id, _ in checks(report):
        assert case_id is None or f"case {case_id}:" in str(stopped.value)


def test_what_a_source_finds_while_it_reads_is_told_and_remembered(
    folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = folder.read
    overlap = Fault("overlapping_objects", "apart", "2 voxels", "look", "case_1", Path("m.png"), Severity.WARNING)

    def read(case: Case) -> Image:
        image = sound(case)
        return replace(image, case=replace(case, faults=(overlap,))) if case.case_id == "case_1" else image

    monkeypatch.setattr(folder, "read", read)
    listed = replace(overlap, check="image_count", case_id="case_0")
    folder.listed["case_0"] = {"faults": (listed,)}
    for n_read in (6, 0):
        report = check_dataset(folder, split=SPLIT, store=new_store(tmp_path))
        assert (report.n_read, report.faults) == (n_read, (listed, overlap))
    silent = Policy.of("error", {"overlapping_objects": "ignore", "image_count": "error"})
    report = check_dataset(folder, policy=silent, store=new_store(tmp_path))
    assert report.faults == (replace(listed, severity=Severity.ERROR),)


def test_a_case_that_its_source_refuses_stays_an_error_whatever_is_said_of_the_check(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = Fault("not_finite", "finite values", "NaN", "replace", case_id="case_1")

    def read(case: Case) -> Image:
        raise DataError.of(nan)

    monkeypatch.setattr(folder, "read", read)
    assert check_dataset(folder, policy=Policy.of("error", {"not_finite": "ignore"})).errors == (nan,)


def test_warnings_stop_nothing(folder: Folder) -> None:
    folder.write("case_1", np.load(folder.root / "case_0.npy"))
    report = check_dataset(folder, split=SPLIT)
    assert len(report.warnings) == 1
    assert report.errors == ()
    assert checked_parts(report) == report.parts


def test_quarantine_leaves_the_cases_out_and_says_so(folder: Folder) -> None:
    spoil(folder)
    report = check_dataset(folder, split=SPLIT, policy=Policy.of("quarantine", {}))
    assert report.quarantined == ("case_0", "case_1", "case_2", "case_3")
    kept = checked_parts(report)
    whole = SPLIT(folder.cases(), fold=0)
    assert {case.case_id for part in (kept.train, kept.val) for case in part} == {"case_4", "case_5"}
    # The folds of the others stay as they were.
    assert all(case in whole.val for case in kept.val)
    assert all(case in whole.train for case in kept.train)
    (note,) = report.notes()
    assert note.startswith(
        "left out 4 of 6 cases by dataset.integrity=quarantine: case_0 (not_finite), case_1 (constant"
    )


def test_quarantine_does_not_help_where_no_case_is_to_blame_or_none_is_left(folder: Folder) -> None:
    wrong_patch = check_dataset(
        folder, split=SPLIT, policy=Policy.of("quarantine", {}), training=Training(patch_size=(9, 9), strides=(2, 2))
    )
    with pytest.raises(DataError, match="patch_size"):
        checked_parts(wrong_patch)
    for case_id in folder.listed:
        folder.write(case_id, np.zeros((1, 12, 10)))
    with pytest.raises(DataError, match="case_5"):
        checked_parts(check_dataset(folder, split=SPLIT, policy=Policy.of("quarantine", {})))


def test_errors_are_told_only_where_that_is_wished(folder: Folder) -> None:
    spoil(folder)
    report = check_dataset(folder, split=SPLIT, policy=Policy.of("warn", {}))
    assert checked_parts(report) == SPLIT(folder.cases(), fold=0)
    assert "in spite of errors" in report.notes()[0]


def test_a_patient_in_two_splits_is_told_and_can_be_left_out_of_training(folder: Folder) -> None:
    folder.listed["case_0"] = {"group": "p", "split": "train"}
    folder.listed["case_1"] = {"group": "p", "split": "test"}
    report = check_dataset(folder, split=SPLIT)
    assert checks(report) == [("case_0", "group_in_two_parts")]
    assert report.parts is None
    with pytest.raises(DataError, match="group"):
        checked_parts(report)
    kept = checked_parts(check_dataset(folder, split=SPLIT, policy=Policy.of("quarantine", {})))
    assert [case.case_id for case in kept.test] == ["case_1"]
    assert "case_0" not in {case.case_id for case in (*kept.train, *kept.val)}


def test_cases_that_cannot_be_split_are_told_beside_what_else_is_wrong(folder: Folder) -> None:
    spoil(folder)
    report = check_dataset(folder, split=KFold(n_folds=7, seed=0))
    (of_split,) = (fault for fault in report.faults if fault.check == "unfit_split")
    assert "7 folds need as many groups, got 6" in of_split.found
    assert len(report.errors) == 5


def test_a_fold_that_does_not_exist_is_wrong_use(folder: Folder) -> None:
    with pytest.raises(UsageError, match="fold needs"):
        check_dataset(folder, split=SPLIT, fold=3)


def test_a_dataset_that_cannot_be_listed_has_that_one_fault(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def cases() -> list[Case]:
        raise DataError("list.csv is missing; restore it")

    monkeypatch.setattr(folder, "cases", cases)
    report = check_dataset(folder, split=SPLIT)
    assert [str(fault) for fault in report.faults] == [
        "the dataset needs to list its cases, got an error: list.csv is missing; restore it"
    ]
    with pytest.raises(DataError, match=r"list\.csv"):
        checked_parts(report)


def test_a_second_check_reads_nothing_and_finds_the_same(folder: Folder, store: Store, tmp_path: Path) -> None:
    folder.write("case_0", np.full((1, 12, 10), np.nan))
    folder.write("case_1", np.zeros((1, 12, 10)))
    first = check_dataset(folder, split=SPLIT, store=store)
    assert (first.n_read, folder.n_read) == (6, 6)
    again = check_dataset(folder, split=SPLIT, store=new_store(tmp_path))
    assert (again.n_read, folder.n_read) == (0, 6)
    assert again.faults == first.faults
    # Another patch asks nothing new of the files.
    other = check_dataset(folder, split=SPLIT, store=new_store(tmp_path), training=Training(patch_size=(64, 64)))
    assert other.n_read == 0
    assert len(other.warnings) == 6


def test_a_case_that_changed_and_one_that_could_not_be_read_are_read_again(folder: Folder, tmp_path: Path) -> None:
    (folder.root / "case_3.npy").write_bytes(b"")
    assert check_dataset(folder, store=new_store(tmp_path)).n_read == 6
    assert check_dataset(folder, store=new_store(tmp_path)).n_read == 1
    folder.write("case_0", np.zeros((1, 12, 10)))
    folder.write("case_3", np.ones((1, 12, 10)) * np.arange(10))
    report = check_dataset(folder, store=new_store(tmp_path))
    assert report.n_read == 2
    assert checks(report) == [("case_0", "constant_image")]


def test_another_configuration_of_the_source_is_read_anew(folder: Folder, tmp_path: Path) -> None:
    check_dataset(folder, store=new_store(tmp_path))
    assert check_dataset(folder, store=new_store(tmp_path, "other")).n_read == 6


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1}'])
def test_a_damaged_store_is_made_again(folder: Folder, store: Store, tmp_path: Path, content: bytes) -> None:
    check_dataset(folder, store=store)
    store.path.write_bytes(content)
    assert check_dataset(folder, store=new_store(tmp_path)).n_read == 6
    assert check_dataset(folder, store=new_store(tmp_path)).n_read == 0


def test_entries_of_another_layout_are_read_anew(folder: Folder, store: Store, tmp_path: Path) -> None:
    check_dataset(folder, store=store)
    store.path.write_bytes(store.path.read_bytes().replace(b'"image_hash"', b'"picture"'))
    assert check_dataset(folder, store=new_store(tmp_path)).n_read == 6


def test_several_processes_find_what_one_finds_in_the_same_order(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data", n_cases=30)
    spoil(folder)
    alone = check_dataset(folder, split=SPLIT, processes=1)
    assert folder.n_read == 30
    together = check_dataset(folder, split=SPLIT, processes=2)
    assert folder.n_read == 31  # the others were read by the two processes
    assert together.faults == alone.faults


class Killing(Folder):
    """A source that takes its process along when it reads one of its cases, as a library that crashes would."""

    def read(self, case: Case) -> Image:
        if case.case_id == "case_7":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(case)


def test_a_case_that_kills_its_process_is_told_and_the_others_are_checked(tmp_path: Path) -> None:
    source = Killing(tmp_path / "data", n_cases=30)
    source.write("case_20", np.zeros((1, 12, 10)))
    report = check_dataset(source, processes=2)
    assert checks(report) == [("case_7", "unreadable"), ("case_20", "constant_image")]
    assert "killed" in report.faults[0].found


def test_an_error_of_a_reader_hides_no_other_case(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = folder.read

    def read(case: Case) -> Image:
        return sound(case) if case.case_id != "case_1" else 1 / 0

    monkeypatch.setattr(folder, "read", read)
    folder.write("case_4", np.zeros((1, 12, 10)))
    report = check_dataset(folder)
    assert checks(report) == [("case_1", "unreadable"), ("case_4", "constant_image")]
    assert "ZeroDivisionError" in report.faults[0].found


def test_the_datasets_own_labels_are_checked_where_others_are_made_of_them(tmp_path: Path) -> None:
    own = Folder(tmp_path / "data")
    own.labels = {0: "background", 2: "organ"}
    derived = Derived(source=own, steps=[ImageLabel(present=["organ"], min_volume_mm3=1.0)])
    for n_read in (6, 0):
        store = Store(folder=tmp_path / "cache", source=derived, identity="derived")
        report = check_dataset(derived, split=SPLIT, store=store)
        assert report.n_read == n_read
        assert {fault.check for fault in report.errors} == {"undeclared_label"}
        (absent,) = report.warnings
        assert absent.expected.startswith("organ (1) in each part")


@pytest.mark.parametrize("by", ["presence", "load"])
def test_a_stratified_split_asks_what_was_measured(tmp_path: Path, by: str) -> None:
    source = Folder(tmp_path / "data", n_cases=9)
    split = KFold(n_folds=3, seed=0, stratify=by, stratify_quantiles=2)
    report = check_dataset(source, split=split)
    assert source.n_read == 9
    assert [len(part) for part in (report.parts.train, report.parts.val)] == [6, 3]
    with pytest.raises(UsageError, match="annotation"):
        split(source.cases(), fold=0)


def test_progress_counts_the_cases_that_are_read(folder: Folder, store: Store) -> None:
    seen: list[tuple[int, int]] = []
    check_dataset(folder, store=store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 6) for done in range(1, 7)]
