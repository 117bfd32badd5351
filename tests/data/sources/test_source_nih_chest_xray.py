from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.data.derive.derived import Derived
from medexp.data.derive.object_mask import ObjectMask
from medexp.data.sources.nih_chest_xray import NIHChestXray
from medexp.data.splits import KFold

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = {
    "00000001_000.png": ("Cardiomegaly", "1", "058Y"),
    "00000001_001.png": ("Cardiomegaly|Emphysema", "1", "058Y"),
    "00000002_000.png": ("No Finding", "2", "414"),
    "00000003_000.png": ("Infiltration|Mass", "3", "81"),
    "00000004_000.png": ("No Finding", "4", "7"),
}
BOXES = [
    ("00000003_000.png", "Infiltrate", 100.25, 200.5, 400.0, 300.0),
    ("00000003_000.png", "Mass", 200.0, 300.0, 50.0, 60.0),
    ("00000001_000.png", "Cardiomegaly", 10.0, 20.0, 1000.0, 500.0),
]
TEST = ("00000003_000.png", "00000001_000.png", "00000001_001.png")
EIGHT = ["Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax"]
FOURTEEN = [*EIGHT, "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia"]


def write_table(
    root: Path, rows: dict[str, tuple[str, str, str]] = ROWS, *, header: str = HEADER, end: str = ""
) -> None:
    lines = [
        f"{name},{labels},0,{patient},{age},M,PA,2682,2749,0.143,0.143{end}"
        for name, (labels, patient, age) in rows.items()
    ]
    (root / "Data_Entry_2017.csv").write_text("\n".join([header, *lines]) + "\n")


def write_boxes(root: Path, boxes: list[tuple[Any, ...]]) -> None:
    lines = [",".join(map(str, row)) + ",,," for row in boxes]
    (root / "BBox_List_2017.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *lines]) + "\n")


def write_lists(root: Path, *, train_val: tuple[str, ...], test: tuple[str, ...]) -> None:
    # The official lists end without a line break.
    (root / "train_val_list.txt").write_text("\n".join(train_val))
    (root / "test_list.txt").write_text("\n".join(test))


def write_image(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(np.zeros((4, 4), np.uint8) if values is None else values).save(path)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Images in folders with and without an inner one, tables as they were first released."""
    for number, name in enumerate(ROWS):
        write_image(tmp_path / ("images_001/images" if number < 3 else "images_002") / name)
    write_table(tmp_path, header=HEADER + ",", end=",")
    write_boxes(tmp_path, BOXES)
    write_lists(tmp_path, train_val=tuple(name for name in ROWS if name not in TEST), test=TEST)
    return tmp_path


def checks(root: Path, **knobs: Any) -> dict[str, list[str]]:
    """Names of the faults of each case that has some, but for the warning that a table is none of those counted."""
    source = NIHChestXray(root=root, **knobs)
    found = {}
    for case in source.cases():
        own = [fault for fault in case.faults if fault.check != "checksum"]
        assert all(fault.case_id == case.case_id for fault in own)
        if any(fault.severity is Severity.ERROR for fault in own):
            with pytest.raises(DataError):
                source.read(case)
        if own:
            found[case.case_id] = [fault.check for fault in own]
    return found


def labels_of(root: Path, **knobs: Any) -> dict[str, tuple[str, ...]]:
    source = NIHChestXray(root=root, **knobs)
    return {
        case.case_id: tuple(source.labels[label] for label in source.read(case).annotation.image_labels)
        for case in source.cases()
    }


def test_findings_of_each_image_are_those_of_its_row(release: Path) -> None:
    assert labels_of(release) == {
        "00000001_000": ("Cardiomegaly",),
        "00000001_001": ("Cardiomegaly", "Emphysema"),
        "00000002_000": ("No Finding",),
        "00000003_000": ("Infiltration", "Mass"),
        "00000004_000": ("No Finding",),
    }
    assert dict(NIHChestXray(root=release).labels) == dict(enumerate(["No Finding", *FOURTEEN]))


def test_any_finding_makes_an_image_abnormal(release: Path) -> None:
    found = labels_of(release, labels="normal_abnormal")
    assert [case for case, labels in found.items() if labels == ("normal",)] == ["00000002_000", "00000004_000"]
    assert set(found.values()) == {("normal",), ("abnormal",)}


@pytest.mark.parametrize("header_ends", [",", ""])
@pytest.mark.parametrize("rows_end", [",", ""])
def test_a_comma_at_the_end_of_lines_moves_no_column(release: Path, header_ends: str, rows_end: str) -> None:
    expected = labels_of(release)
    write_table(release, header=HEADER + header_ends, end=rows_end)
    assert labels_of(release) == expected
    assert [case.group for case in NIHChestXray(root=release).cases()] == ["1", "1", "2", "3", "4"]


def test_the_corrected_table_is_taken_where_there_are_both(release: Path) -> None:
    content = (release / "Data_Entry_2017.csv").read_text().replace("414", "14").replace("No Finding", "Hernia")
    (release / "Data_Entry_2017_v2020.csv").write_text(content)
    assert labels_of(release)["00000002_000"] == ("Hernia",)


def test_a_byte_order_mark_and_other_line_ends_do_no_harm(release: Path) -> None:
    expected = labels_of(release)
    path = release / "Data_Entry_2017.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    lists = release / "test_list.txt"
    lists.write_bytes(lists.read_bytes().replace(b"\n", b"\r\n"))
    assert labels_of(release) == expected
    assert checks(release) == {}


def test_a_table_that_was_not_counted_is_told_once_as_a_warning(release: Path) -> None:
    first, *others = NIHChestXray(root=release).cases()
    (fault,) = first.faults
    assert (fault.check, fault.severity, fault.case_id) == ("checksum", Severity.WARNING, None)
    assert not any(case.faults for case in others)
    assert NIHChestXray(root=release).read(first).annotation is not None


def test_the_official_test_list_is_kept_apart_and_folds_cut_no_patient(release: Path) -> None:
    cases = NIHChestXray(root=release).cases()
    assert {case.case_id + ".png" for case in cases if case.split == "test"} == set(TEST)
    assert {case.split for case in cases} == {"test", None}
    parts = KFold(n_folds=2, seed=0)(cases, fold=0)
    assert sorted(case.group for case in (*parts.train, *parts.val)) == ["2", "4"]
    assert len(parts.test) == 3
    free = NIHChestXray(root=release, official_split=False).cases()
    assert {case.split for case in free} == {None}


def test_boxes_have_the_axes_of_the_array(release: Path) -> None:
    write_image(release / "images_002/00000003_000.png", np.zeros((1024, 1024), np.uint8))
    source = NIHChestXray(root=release, annotation="boxes")
    cases = {case.case_id: case for case in source.cases()}
    assert list(cases) == ["00000001_000", "00000003_000"]
    objects = source.read(cases["00000003_000"]).annotation.objects
    assert objects.boxes.tolist() == [[200.5, 100.25, 500.5, 500.25], [300.0, 200.0, 360.0, 250.0]]
    assert [source.labels[label] for label in objects.labels] == ["Infiltration", "Mass"]
    assert dict(source.labels) == dict(enumerate(["background", *EIGHT]))


def test_a_box_has_one_class_where_images_are_normal_or_abnormal(release: Path) -> None:
    source = NIHChestXray(root=release, annotation="boxes", labels="normal_abnormal")
    assert source.labels == {0: "background", 1: "abnormal"}
    assert [case.facts["labels"] for case in source.cases()] == [[1], [1, 1]]


def test_boxes_make_weak_masks_with_the_smaller_on_top(release: Path) -> None:
    for order in (BOXES, BOXES[::-1]):
        write_boxes(release, order)
        write_image(release / "images_002/00000003_000.png", np.zeros((1024, 1024), np.uint8))
        source = Derived(source=NIHChestXray(root=release, annotation="boxes"), steps=[ObjectMask()])
        mask = source.read(source.cases()[-1]).annotation.mask
        middles = np.arange(1024) + 0.5
        expected = np.zeros((1024, 1024))
        for label, (x, y, w, h) in ((4, BOXES[0][2:]), (5, BOXES[1][2:])):
            rows, columns = (middles >= y) & (middles < y + h), (middles >= x) & (middles < x + w)
            expected[np.ix_(rows, columns)] = label
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("negatives", "expected"), [(0, []), (1, ["2"]), (2, ["2", "4"]), (9, ["2", "4"]), (None, ["2", "4"])]
)
def test_images_without_findings_serve_as_negatives(release: Path, negatives: int | None, expected: list[str]) -> None:
    cases = NIHChestXray(root=release, annotation="boxes", negatives=negatives).cases()
    assert [case.group for case in cases if not case.facts["boxes"]] == expected


def test_negatives_are_spread_over_the_table(release: Path) -> None:
    rows = {f"{number:08d}_000.png": ("No Finding", str(number), "50") for number in range(100)}
    write_table(release, rows)
    cases = NIHChestXray(root=release, annotation="boxes", negatives=4, only_present=False).cases()
    assert [case.group for case in cases if not case.facts["boxes"]] == ["0", "25", "50", "75"]


def test_an_image_without_findings_that_is_a_negative_has_no_object(release: Path) -> None:
    write_image(release / "images_001/images/00000002_000.png", np.zeros((1024, 1024), np.uint8))
    source = NIHChestXray(root=release, annotation="boxes", negatives=1)
    case = next(case for case in source.cases() if case.group == "2")
    assert len(source.read(case).annotation.objects) == 0


def test_images_that_are_not_on_disk_are_passed_over_or_faults(release: Path) -> None:
    (release / "images_001/images/00000002_000.png").unlink()
    assert len(NIHChestXray(root=release).cases()) == 4
    assert checks(release) == {}
    assert checks(release, only_present=False) == {"00000002_000": ["missing_image"]}


def test_an_image_without_a_row_is_named(release: Path) -> None:
    write_image(release / "images_002/00000009_000.png")
    assert checks(release, official_split=False) == {"00000009_000": ["missing_label"]}
    assert checks(release) == {"00000009_000": ["missing_label", "unknown_part"]}


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        (("Cardiomegali", "1", "58"), "did you mean Cardiomegaly"),
        (("No Finding|Mass", "1", "58"), "both No Finding and findings"),
        (("", "1", "58"), "the label ''"),
        (("Mass", "", "58"), "no Patient ID"),
    ],
)
def test_a_row_that_cannot_be_read_is_told(release: Path, row: tuple[str, str, str], hint: str) -> None:
    write_table(release, ROWS | {"00000004_000.png": row})
    assert checks(release) == {"00000004_000": ["unreadable_row"]}
    assert hint in NIHChestXray(root=release).cases()[-1].faults[0].found


def test_two_rows_of_an_image_are_told_and_the_case_is_listed_once(release: Path) -> None:
    path = release / "Data_Entry_2017.csv"
    path.write_text(path.read_text() + "00000004_000.png,Mass,0,4,7,M,PA,1,1,1,1\n")
    assert len(NIHChestXray(root=release).cases()) == 5
    assert checks(release) == {"00000004_000": ["unreadable_row"]}


def test_copies_of_an_image_are_named(release: Path) -> None:
    write_image(release / "images_002/images/00000002_000.png")
    assert checks(release) == {"00000002_000": ["duplicate_image"]}


def test_an_image_in_both_lists_or_in_neither_is_told(release: Path) -> None:
    write_lists(release, train_val=("00000002_000.png", "00000003_000.png"), test=TEST)
    assert checks(release) == {"00000003_000": ["unknown_part"], "00000004_000": ["unknown_part"]}


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (("00000001_000.png", "Mass", 1, 2, 3, 4), "box_label"),
        (("00000001_000.png", "Cardio", 1, 2, 3, 4), "unreadable_row"),
        (("00000001_000.png", "Cardiomegaly", 1, "?", 3, 4), "unreadable_row"),
        (("00000001_000.png", "Cardiomegaly", 1, 2, 3, ""), "unreadable_row"),
        (("00000009_000.png", "Mass", 1, 2, 3, 4), "missing_label"),
    ],
)
def test_a_box_that_cannot_be_read_or_fits_no_row_is_told(release: Path, box: tuple[Any, ...], expected: str) -> None:
    write_boxes(release, [box])
    found = checks(release, annotation="boxes", only_present=False)
    assert expected in found[box[0].removesuffix(".png")]


def test_boxes_are_refused_on_images_of_another_size(release: Path) -> None:
    source = NIHChestXray(root=release, annotation="boxes")
    with pytest.raises(DataError, match=r"shape \(1024, 1024\), got \(4, 4\)"):
        source.read(source.cases()[0])


@pytest.mark.parametrize("channels", [3, 4])
def test_grey_values_saved_in_colour_are_one_channel(release: Path, channels: int) -> None:
    grey = np.arange(16, dtype=np.uint8).reshape(4, 4)
    values = np.repeat(grey[..., None], channels, axis=2)
    values[..., 3:] = 255
    write_image(release / "images_001/images/00000001_000.png", values)
    source = NIHChestXray(root=release)
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels, grey[None])


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_image_is_named(release: Path, content: bytes) -> None:
    (release / "images_001/images/00000001_000.png").write_bytes(content)
    source = NIHChestXray(root=release)
    with pytest.raises(DataError, match=r"case 00000001_000: .*00000001_000\.png"):
        source.read(source.cases()[0])


@pytest.mark.parametrize(
    ("absent", "knobs"),
    [
        ("Data_Entry_2017.csv", {}),
        ("test_list.txt", {}),
        ("BBox_List_2017.csv", {"annotation": "boxes"}),
        ("images_00", {}),
    ],
)
def test_a_part_of_the_release_that_is_missing_is_named(release: Path, absent: str, knobs: dict[str, Any]) -> None:
    for path in release.glob(f"{absent}*"):
        path.rename(path.with_name("." + path.name))
    with pytest.raises(DataError, match=absent):
        NIHChestXray(root=release, **knobs).cases()


def test_what_is_not_asked_for_may_be_missing(release: Path) -> None:
    for name in ("test_list.txt", "train_val_list.txt", "BBox_List_2017.csv"):
        (release / name).unlink()
    assert len(NIHChestXray(root=release, official_split=False).cases()) == 5


@pytest.mark.parametrize("content", ["a;b\n1;2\n", "", "Image Index,Finding Labels\nx,y\n", '"\n'])
def test_a_table_of_another_kind_is_refused(release: Path, content: str) -> None:
    (release / "Data_Entry_2017.csv").write_text(content)
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv"):
        NIHChestXray(root=release).cases()


def test_a_table_that_is_no_text_is_refused(release: Path) -> None:
    (release / "Data_Entry_2017.csv").write_bytes(b"\xff\xfe\x00\x01" * 40)
    with pytest.raises(DataError, match=r"Data_Entry_2017\.csv"):
        NIHChestXray(root=release).cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, r"dataset\.root"),
        ({"labels": "finding"}, "did you mean findings"),
        ({"annotation": "masks"}, "labels or boxes"),
        ({"negatives": -1}, "negatives"),
        ({"annotation": "boxes", "official_split": True}, "test part"),
    ],
)
def test_an_unfit_knob_is_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NIHChestXray(**({"root": tmp_path} | knobs))


# The real lists, and the twelve images that are at hand


@pytest.mark.real_data
def test_the_real_lists_have_the_counts_of_the_release(shared_data: Callable[[str], Path]) -> None:
    # In a process of its own, as the type checks of tests would take longer than the listing.
    script = """
import json, sys
from medexp.data.sources.nih_chest_xray import NIHChestXray
cases = NIHChestXray(root=sys.argv[1], only_present=False).cases()
parts = [{case.group for case in cases if (case.split == "test") is tested} for tested in (False, True)]
print(json.dumps({
    "cases": len(cases),
    "tested": sum(case.split == "test" for case in cases),
    "patients": [len(parts[0] | parts[1]), len(parts[0] & parts[1])],
    "faults": sorted({fault.check for case in cases for fault in case.faults}),
    "without finding": sum(case.facts["labels"] == [0] for case in cases),
}))
"""
    command = [sys.executable, "-c", script, str(shared_data("nih_chest_xray"))]
    counts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert counts == {
        "cases": 112_120,
        "tested": 25_596,
        "patients": [30_805, 0],
        "faults": ["missing_image"],
        "without finding": 60_361,
    }


@pytest.mark.real_data
def test_the_real_boxes_have_the_counts_of_the_release(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("nih_chest_xray")
    cases = NIHChestXray(root=root, annotation="boxes", only_present=False).cases()
    boxes = np.array([box for case in cases for box in case.facts["boxes"]])
    assert (len(cases), len(boxes)) == (880, 984)
    assert (boxes >= 0).all()
    assert (boxes <= 1024).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert {f"{case.case_id}.png" for case in cases} <= set((root / "test_list.txt").read_text().split())


@pytest.mark.real_data
def test_the_real_images_are_read(shared_data: Callable[[str], Path]) -> None:
    source = NIHChestXray(root=shared_data("nih_chest_xray"))
    cases = source.cases()
    assert len(cases) == 12
    assert not any(case.faults for case in cases)
    for case in cases:
        read = source.read(case)
        assert read.pixels.shape == (1, 1024, 1024)
        assert read.geometry.unit == "px"
        assert read.pixels.max() > read.pixels.min()
    assert [source.labels[label] for label in source.read(cases[1]).annotation.image_labels] == [
        "Cardiomegaly",
        "Emphysema",
    ]
