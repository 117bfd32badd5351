from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Image
from medexp.data.integrity.boxes import box_faults
from medexp.data.integrity.demands import Demands, Training
from medexp.data.integrity.measurement import measure
from medexp.data.sources.voc import VOC

SHAPE = (20, 30)
CELL = ("cell", 3, 2, 13, 9)  # xmin, ymin, xmax, ymax


def thing(name: str, *ends: object, difficult: int | None = 0) -> str:
    box = "".join(f"<{end}>{value}</{end}>" for end, value in zip(("xmin", "ymin", "xmax", "ymax"), ends, strict=True))
    mark = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{mark}<bndbox>{box}</bndbox></object>"


def document(*objects: str, shape: tuple[int, int] | None = SHAPE) -> str:
    size = "" if shape is None else f"<size><width>{shape[1]}</width><height>{shape[0]}</height></size>"
    return f"<annotation><filename>x.jpg</filename>{size}{''.join(objects)}</annotation>"


def colours(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def add(root: Path, name: str, *objects: str) -> Path:
    """An image with its annotation, whose path is returned."""
    for folder in ("JPEGImages", "Annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Picture.fromarray(colours()).save(root / "JPEGImages" / f"{name}.png")
    path = root / "Annotations" / f"{name}.xml"
    path.write_text(document(*objects), encoding="utf-8")
    return path


def write_lists(root: Path, **lists: Sequence[str]) -> None:
    folder = root / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (folder / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def read_first(root: Path, **knobs: Any) -> Image:
    source = VOC(root=root, **knobs)
    return source.read(source.cases()[0])


def refused(root: Path, **knobs: Any) -> tuple[list[str], str]:
    """The checks that fail where the first case is read, and the message."""
    with pytest.raises(DataError, match="case a") as caught:
        read_first(root, **knobs)
    return [fault.check for fault in caught.value.faults], str(caught.value)


def test_boxes_have_their_ends_along_the_axes_of_the_array(tmp_path: Path) -> None:
    add(tmp_path, "a", thing(*CELL), thing("bubble", 0, 0, 30, 20), thing("cell", 1.5, 2.25, 3, 4))
    read = read_first(tmp_path)
    assert read.annotation.objects.boxes.tolist() == [[2, 3, 9, 13], [0, 0, 20, 30], [2.25, 1.5, 4, 3]]
    assert read.annotation.objects.labels.tolist() == [2, 1, 2]
    assert VOC(root=tmp_path).labels == {0: "background", 1: "bubble", 2: "cell"}
    np.testing.assert_array_equal(read.pixels, np.moveaxis(colours(), -1, 0))
    assert read.annotation.mask is None
    assert read.annotation.instances is None


def test_a_box_counted_from_one_covers_the_pixels_that_it_names(tmp_path: Path) -> None:
    add(tmp_path, "a", thing("cell", 1, 1, 30, 20), thing("cell", 7, 5, 7, 5))
    inclusive = np.zeros(SHAPE)
    inclusive[5 - 1, 7 - 1] = 1  # the pixel in row 5 and column 7, counted from 1
    objects = read_first(tmp_path, one_based=True).annotation.objects
    assert objects.boxes[0].tolist() == [0, 0, *SHAPE]
    low, high = objects.low[1].astype(int), objects.high[1].astype(int)
    assert inclusive[low[0] : high[0], low[1] : high[1]].sum() == inclusive.sum() == np.prod(high - low)


def test_a_coordinate_below_one_contradicts_counting_from_one(tmp_path: Path) -> None:
    add(tmp_path, "a", thing("cell", 0, 4, 9, 9))
    assert read_first(tmp_path).annotation.objects.boxes.tolist() == [[4, 0, 9, 9]]
    checks, message = refused(tmp_path, one_based=True)
    assert checks == ["box_counting"]
    assert "one_based=false" in message


def test_boxes_without_extent_outside_and_turned_round_are_left_to_the_checks_of_the_dataset(tmp_path: Path) -> None:
    add(tmp_path, "a", thing("cell", 5, 6, 5, 6), thing("cell", 9, 9, 3, 3), thing("cell", 20, 10, 40, 15))
    source = VOC(root=tmp_path)
    read = source.read(source.cases()[0])
    demands = Demands.of(source, Training())
    found = [fault.check for fault in box_faults(read.case, measure(read), demands)]
    assert sorted(found) == ["box_order", "box_outside", "box_without_extent"]


def test_difficult_objects_are_kept_or_left_out(tmp_path: Path) -> None:
    add(tmp_path, "a", thing(*CELL), thing(*CELL, difficult=1), thing(*CELL, difficult=None))
    assert len(read_first(tmp_path).annotation.objects) == 3
    assert len(read_first(tmp_path, difficult="leave_out").annotation.objects) == 2


def test_given_labels_merge_and_leave_out_classes(tmp_path: Path) -> None:
    add(tmp_path, "a", thing(*CELL), thing("cyst", *CELL[1:]), thing("artefact", *CELL[1:]))
    source = VOC(root=tmp_path, labels={"cell": 3, "cyst": 3, "artefact": 0})
    assert source.labels == {0: "background", 3: "cell"}
    assert source.read(source.cases()[0]).annotation.objects.labels.tolist() == [3, 3]


def test_a_class_that_is_not_given_is_named_with_the_nearest(tmp_path: Path) -> None:
    add(tmp_path, "a", thing("Cell", *CELL[1:]))
    checks, message = refused(tmp_path, labels={"cell": 1})
    assert checks == ["unknown_label"]
    assert "did you mean cell?" in message


def test_an_image_without_objects_has_none(tmp_path: Path) -> None:
    add(tmp_path, "a")
    assert read_first(tmp_path, labels={"cell": 1}).annotation.objects.boxes.shape == (0, 4)


def test_lists_prescribe_the_split(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add(tmp_path, name, thing(*CELL))
    write_lists(tmp_path, train=["b"], val=["a.png"], test=["c"], trainval=["a", "b"])
    assert [(case.case_id, case.split) for case in VOC(root=tmp_path).cases()] == [
        ("a", "val"),
        ("b", "train"),
        ("c", "test"),
    ]
    assert {case.split for case in VOC(root=tmp_path, list_folder=None).cases()} == {None}


@pytest.mark.parametrize(
    ("unlisted", "expected"),
    [("fault", {"a": [], "b": ["split_lists"]}), ("list", {"a": [], "b": []}), ("leave_out", {"a": []})],
)
def test_an_image_in_no_list(tmp_path: Path, unlisted: str, expected: dict[str, list[str]]) -> None:
    for name in ("a", "b"):
        add(tmp_path, name, thing(*CELL))
    write_lists(tmp_path, train=["a"])
    cases = VOC(root=tmp_path, unlisted=unlisted).cases()
    assert {case.case_id: [fault.check for fault in case.faults] for case in cases} == expected


def test_what_is_absent_or_listed_twice_is_told_at_listing(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add(tmp_path, name, thing(*CELL))
    (tmp_path / "JPEGImages/a.png").unlink()
    (tmp_path / "Annotations/b.xml").unlink()
    write_lists(tmp_path, train=["a", "b", "c"], test=["c", "gone"])
    cases = VOC(root=tmp_path).cases()
    assert {case.case_id: sorted(fault.check for fault in case.faults) for case in cases} == {
        "a": ["missing_image"],
        "b": ["missing_label"],
        "c": ["split_lists"],
        "gone": ["missing_image", "missing_label"],
    }
    with pytest.raises(DataError, match="case gone") as caught:
        VOC(root=tmp_path).read(cases[3])
    assert len(caught.value.faults) == 2


def test_two_images_of_one_name_are_two_cases_of_one_id(tmp_path: Path) -> None:
    add(tmp_path, "a", thing(*CELL))
    Picture.fromarray(colours(1)).save(tmp_path / "JPEGImages/a.jpg")
    assert [case.case_id for case in VOC(root=tmp_path).cases()] == ["a", "a"]


def test_names_match_whichever_form_of_unicode_they_have(tmp_path: Path) -> None:
    path = add(tmp_path, "Mu\u0308ller 1", thing(*CELL))
    path.rename(path.with_name("M\u00fcller 1.XML"))
    write_lists(tmp_path, train=["M\u00fcller 1"])
    (case,) = VOC(root=tmp_path).cases()
    assert (case.case_id, case.split, case.faults) == ("M\u00fcller 1", "train", ())


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", thing(*CELL))
    write_lists(tmp_path, train=["a"])
    (tmp_path / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train\.txt"):
        VOC(root=tmp_path).cases()


def test_another_size_than_the_annotation_says_is_refused(tmp_path: Path) -> None:
    path = add(tmp_path, "a", thing(*CELL))
    path.write_text(document(thing(*CELL), shape=(30, 20)), encoding="utf-8")
    checks, message = refused(tmp_path)
    assert checks == ["shape_mismatch"]
    assert "got (30, 20)" in message


@pytest.mark.parametrize("shape", [None, (0, 0)])
def test_a_size_that_is_not_given_is_not_compared(tmp_path: Path, shape: tuple[int, int] | None) -> None:
    path = add(tmp_path, "a")
    path.write_text(document(thing(*CELL), shape=shape), encoding="utf-8")
    assert len(read_first(tmp_path).annotation.objects) == 1


@pytest.mark.parametrize(
    ("content", "check"),
    [
        ("", "unreadable"),
        ("<annotation><object>", "unreadable"),
        ("<html></html>", "unreadable"),
        ("<a>" * 20_000, "unreadable"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "unreadable"),
        (document("<object><name>cell</name></object>"), "malformed_object"),
        (document(thing("", *CELL[1:])), "malformed_object"),
        (document(thing("cell", 1, 2, 3, "four")), "malformed_object"),
        (document(thing("cell", 1, 2, 3, "nan")), "malformed_object"),
        (document(thing("cell", 1, 2, 3, "1e999")), "malformed_object"),
    ],
)
def test_a_damaged_annotation_is_named(tmp_path: Path, content: str, check: str) -> None:
    path = add(tmp_path, "a")
    path.write_text(content, encoding="utf-8")
    checks, message = refused(tmp_path, labels={"cell": 1})
    assert checks == [check]
    assert str(path) in message


BILLION_LAUGHS = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;">]>' + document(thing("&y;", *CELL[1:]))
OTHER_FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>' + document(thing("&x;", *CELL[1:]))
PARAMETER = "<!DOCTYPE a [<!ENTITY % x \"<!ENTITY y 'z'>\"> %x;]>" + document(thing("cell", *CELL[1:]))


@pytest.mark.parametrize("content", [BILLION_LAUGHS, OTHER_FILE, PARAMETER])
def test_entities_are_refused(tmp_path: Path, content: str) -> None:
    add(tmp_path, "a").write_text(content, encoding="utf-8")
    checks, message = refused(tmp_path, labels={"cell": 1})
    assert checks == ["unreadable"]
    assert "declares the entity" in message


def test_every_malformed_object_is_counted_in_one_pass(tmp_path: Path) -> None:
    path = add(tmp_path, "a")
    path.write_text(document("<object/>", thing(*CELL), "<object/>"), encoding="utf-8")
    checks, message = refused(tmp_path, labels={"cell": 1})
    assert checks == ["malformed_object"] * 2
    assert "number 1" in message
    assert "number 3" in message


def test_names_are_found_although_one_annotation_is_damaged(tmp_path: Path) -> None:
    add(tmp_path, "a").write_text("<annotation>")
    add(tmp_path, "b", thing(*CELL))
    assert VOC(root=tmp_path).labels == {0: "background", 1: "cell"}


def test_the_patient_is_found_in_the_name(tmp_path: Path) -> None:
    for name in ("p1_1", "p1_2", "x"):
        add(tmp_path, name, thing(*CELL))
    cases = VOC(root=tmp_path, group_pattern=r"(p\d)_").cases()
    assert [case.group for case in cases] == ["p1", "p1", "x"]
    assert [fault.check for fault in cases[2].faults] == ["missing_group"]


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="JPEGImages and Annotations"):
        VOC(root=tmp_path).cases()
    add(tmp_path, "a")
    with pytest.raises(DataError, match="annotations that name classes"):
        _ = VOC(root=tmp_path).labels


@pytest.mark.parametrize(
    "knobs",
    [
        {"root": None},
        {"difficult": "skip"},
        {"unlisted": "skip"},
        {"labels": {"cell": 0}},
        {"labels": {"cell": -1}},
        {"labels": {}},
    ],
)
def test_unfit_knobs_are_refused(tmp_path: Path, knobs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(knobs))):
        VOC(**{"root": tmp_path} | knobs)


@pytest.mark.real_data
def test_real_blood_cells_are_whole(shared_data: Callable[[str], Path]) -> None:
    source = VOC(root=shared_data("bccd"))
    cases = source.cases()
    assert len(cases) == 364
    assert Counter(case.split for case in cases) == {"train": 205, "val": 87, "test": 72}
    assert not any(case.faults for case in cases)
    counts: Counter[str] = Counter()
    flat = []
    for case in cases:
        read = source.read(case)
        assert read.pixels.shape == (3, 480, 640)
        objects = read.annotation.objects
        counts.update(source.labels[label] for label in objects.labels.tolist())
        flat += [read] * int((objects.high <= objects.low).any(axis=1).sum())
    assert counts == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    assert [read.case.case_id for read in flat] == ["BloodImage_00338", "BloodImage_00343"]
    demands = Demands.of(source, Training())
    for read in flat:
        assert [fault.check for fault in box_faults(read.case, measure(read), demands)] == ["box_without_extent"]
