from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case, Source
from medexp.data.sources.manifest import Manifest

SHAPE = (8, 6)
LABELS = {0: "background", 1: "vessel", 2: "lesion"}
GREY = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
MASK = (np.arange(np.prod(SHAPE)).reshape(SHAPE) // 7 % 3).astype(np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(values, np.diag([0.8, 0.7, 2.5, 1])), path)
    else:
        Picture.fromarray(values).save(path)


def write_csv(path: Path, rows: list[dict[str, Any]], *, delimiter: str = ",", encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as stream:
        writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in rows for name in row)), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", GREY)
        save(tmp_path / f"masks/{name}.png", MASK)
    return tmp_path


def row(name: str = "a", **more: Any) -> dict[str, Any]:
    return {"image": f"images/{name}.png", "mask": f"masks/{name}.png", **more}


def source_of(root: Path, rows: list[dict[str, Any]], *, lines: bool = False, **knobs: Any) -> Manifest:
    path = write_lines(root / "cases.jsonl", rows) if lines else write_csv(root / "cases.csv", rows)
    return Manifest(**{"manifest": path, "labels": LABELS, "channels": {"intensity": "image"}, **knobs})


def one_case(root: Path, own: dict[str, Any], **knobs: Any) -> Case:
    (case,) = source_of(root, [own], **knobs).cases()
    return case


def checks(case: Case) -> list[str]:
    return [fault.check for fault in case.faults]


@pytest.mark.parametrize("lines", [False, True])
def test_a_source_of_rows(root: Path, lines: bool) -> None:
    rows = [row("b", patient="p2", fold=1, split="val"), row("a", patient="p1", fold=0, split="train")]
    source = source_of(root, rows, lines=lines, mask="mask", group="patient", fold="fold", split="split")
    assert isinstance(source, Source)
    assert (source.name, source.spatial_dims, source.public) == (root.name, 2, False)
    assert source.channels == ("intensity",)
    assert source.labels == LABELS
    images, masks = root / "images", root / "masks"
    assert source.cases() == [
        Case("images__b", "p2", (images / "b.png",), {"mask": masks / "b.png"}, split="val", fold=1),
        Case("images__a", "p1", (images / "a.png",), {"mask": masks / "a.png"}, split="train", fold=0),
    ]
    image = source.read(source.cases()[0])
    np.testing.assert_array_equal(image.pixels, GREY[None])
    np.testing.assert_array_equal(image.annotation.mask, MASK)


def test_channel_and_labels_have_usual_names_unless_told(root: Path) -> None:
    source = Manifest(manifest=write_csv(root / "cases.csv", [row()]))
    assert source.channels == ("intensity",)
    assert source.labels == {0: "background", 1: "foreground"}
    assert source.read(source.cases()[0]).annotation is None


def test_empty_cells_of_fold_and_split_give_none(root: Path) -> None:
    case = one_case(root, row(fold="", split=""), fold="fold", split="split")
    assert (case.fold, case.split, case.faults) == (None, None, ())


def test_numbers_may_be_written_with_a_point(root: Path) -> None:
    assert one_case(root, row(fold="3.0"), fold="fold").fold == 3


def test_the_name_of_a_case_may_have_a_column(root: Path) -> None:
    assert one_case(root, row(scan="scan 7"), case_id="scan").case_id == "scan 7"
    assert one_case(root, row(scan=7), case_id="scan", lines=True).case_id == "7"


def test_a_channel_has_a_column_or_all_have_one(root: Path) -> None:
    save(root / "images/t2.png", 255 - GREY)
    own = row(second="images/t2.png")
    source = source_of(root, [own], channels={"T1": "image", "T2": "second"})
    assert source.channels == ("T1", "T2")
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels, np.stack([GREY, 255 - GREY]))
    save(root / "images/a.png", np.stack([GREY, MASK, GREY], axis=-1))
    source = source_of(root, [own], channels={"red": "image", "green": "image", "blue": "image"})
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels, np.stack([GREY, MASK, GREY]))
    with pytest.raises(UsageError, match="channels"):
        source_of(root, [own], channels={"a": "image", "b": "image", "c": "second"})


BOXES = [[1, 2, 4, 7], [0, 0, 6, 8.5]]


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("box_format", ["xyxy", "xywh"])
def test_boxes_of_a_picture_have_x_along_the_columns(root: Path, lines: bool, box_format: str) -> None:
    written = BOXES if box_format == "xyxy" else [[x, y, x2 - x, y2 - y] for x, y, x2, y2 in BOXES]
    own = row(boxes=written if lines else json.dumps(written), kinds=["lesion", 1] if lines else "lesion; 1")
    source = source_of(root, [own], lines=lines, boxes="boxes", box_labels="kinds", box_format=box_format)
    objects = source.read(source.cases()[0]).annotation.objects
    assert objects.boxes.tolist() == [[y, x, y2, x2] for x, y, x2, y2 in BOXES]
    assert objects.labels.tolist() == [2, 1]


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_of_nifti_files_have_the_axes_of_the_file(root: Path, dims: int) -> None:
    save(root / "a.nii.gz", np.stack([GREY] * (1 if dims == 2 else 4), axis=-1))
    box = [1, 2, 4, 5] if dims == 2 else [1, 2, 0, 4, 5, 3]
    own = {"image": "a.nii.gz", "boxes": json.dumps([box])}
    source = source_of(root, [own], boxes="boxes", labels={1: "lesion"}, spatial_dims=dims)
    assert source.read(source.cases()[0]).annotation.objects.boxes.tolist() == [box]


def test_no_box_is_known_from_an_empty_list(root: Path) -> None:
    source = source_of(root, [row(boxes="[]", kinds="")], boxes="boxes", box_labels="kinds")
    annotation = source.read(source.cases()[0]).annotation
    assert len(annotation.objects) == 0
    assert annotation.mask is None


def test_boxes_without_labels_have_the_only_one(root: Path) -> None:
    source = source_of(root, [row(boxes=json.dumps(BOXES))], boxes="boxes", labels={4: "nodule"})
    assert source.labels == {0: "background", 4: "nodule"}
    assert source.read(source.cases()[0]).annotation.objects.labels.tolist() == [4, 4]
    with pytest.raises(UsageError, match="one label"):
        source_of(root, [row()], boxes="boxes")


@pytest.mark.parametrize(
    "cell",
    ["", "x", "1 2 3 4", "{}", "[1, 2, 3, 4]", "[[1, 2, 3]]", '[["1", 2, 3, 4]]', "[[true, 0, 1, 1]]", "[" * 9999],
)
def test_boxes_that_are_none_are_told(root: Path, cell: str) -> None:
    case = one_case(root, row(boxes=cell), boxes="boxes", labels={1: "lesion"})
    assert checks(case) == ["malformed_object"]
    assert "line 2" in case.faults[0].found


def test_each_box_needs_a_label(root: Path) -> None:
    case = one_case(root, row(boxes=json.dumps(BOXES), kinds="lesion"), boxes="boxes", box_labels="kinds")
    assert checks(case) == ["malformed_object"]
    assert "2 boxes" in case.faults[0].expected


@pytest.mark.parametrize(
    ("lines", "cell", "expected"),
    [
        (False, "vessel", [1]),
        (False, "2", [2]),
        (False, "2.0", [2]),
        (False, "lesion;vessel; lesion", [2, 1]),
        (False, '["lesion", 0]', [2, 0]),
        (True, ["lesion", 1], [2, 1]),
        (True, 2, [2]),
    ],
)
def test_labels_of_an_image_are_names_or_ids(root: Path, lines: bool, cell: Any, expected: list[int]) -> None:
    source = source_of(root, [row(finding=cell)], lines=lines, label="finding")
    (case,) = source.cases()
    assert dict(case.facts) == {"image_labels": expected}
    assert source.read(case).annotation.image_labels == tuple(expected)


def test_another_separator_may_be_used(root: Path) -> None:
    own = row(finding="lesion|vessel")
    assert one_case(root, own, label="finding", separator="|").facts["image_labels"] == [2, 1]


@pytest.mark.parametrize(
    ("column", "cell", "check", "words"),
    [
        ("label", "leison", "unknown_label", "did you mean lesion"),
        ("label", "7", "unknown_label", "labels of"),
        ("label", "", "missing_label", "a label"),
        ("label", "lesion;", "missing_label", "a label"),
        ("fold", "two", "unreadable_row", "whole number"),
        ("fold", "-1", "unreadable_row", "whole number"),
        ("fold", "1.5", "unreadable_row", "whole number"),
        ("split", "vall", "unknown_part", "did you mean val"),
        ("group", "", "missing_group", "a name"),
        ("case_id", "", "unfit_case_id", "a name"),
    ],
)
def test_an_unfit_cell_is_told(root: Path, column: str, cell: str, check: str, words: str) -> None:
    case = one_case(root, row(cell=cell), **{column: "cell"})
    assert checks(case) == [check]
    assert words in str(case.faults[0])
    assert case.faults[0].file == root / "cases.csv"
    assert repr(cell) in case.faults[0].found


def test_all_that_is_wrong_with_a_row_is_told_and_other_rows_are_read(root: Path) -> None:
    rows = [{"image": "gone.png", "mask": "", "fold": "x", "finding": "?"}, {**row(), "fold": 1, "finding": "lesion"}]
    source = source_of(root, rows, mask="mask", fold="fold", label="finding")
    broken, whole = source.cases()
    assert sorted(checks(broken)) == ["missing_image", "missing_label", "unknown_label", "unreadable_row"]
    with pytest.raises(DataError, match="case gone") as caught:
        source.read(broken)
    assert caught.value.faults == broken.faults
    assert source.read(whole).annotation.image_labels == (2,)


@pytest.mark.parametrize("path", ["x" * 300 + ".png", "x.png", "images", "a/" * 3000])
def test_a_path_without_a_file_is_told(root: Path, path: str) -> None:
    assert checks(one_case(root, row() | {"image": path})) == ["missing_image"]


@pytest.mark.parametrize("path", ["../x.png", "images/../../x.png", "..\\x.png", "/etc/passwd", "C:\\x.png"])
@pytest.mark.parametrize("column", ["image", "mask"])
def test_a_path_that_leaves_the_folder_is_told(root: Path, column: str, path: str) -> None:
    case = one_case(root, row() | {column: path}, mask="mask")
    assert checks(case) == ["path_traversal"]
    assert "moved_from" in case.faults[0].remedy


def test_an_absolute_path_in_the_folder_is_taken(root: Path) -> None:
    case = one_case(root, row() | {"image": str(root / "images/a.png")})
    assert (case.case_id, case.images, case.faults) == ("images__a", (root / "images/a.png",), ())


@pytest.mark.parametrize(
    ("path", "moved"), [("/old/disk/images/a.png", "/old/disk"), ("D:\\old\\images\\a.png", "D:\\old")]
)
def test_absolute_paths_that_moved_are_found(root: Path, path: str, moved: str) -> None:
    case = one_case(root, row() | {"image": path}, moved_from=moved)
    assert (case.case_id, case.images, case.faults) == ("images__a", (root / "images/a.png",), ())
    outside = one_case(root, row() | {"image": moved + "/../x.png"}, moved_from=moved)
    assert checks(outside) == ["path_traversal"]


def test_paths_are_relative_to_the_root_where_one_is_given(root: Path) -> None:
    (root / "lists").mkdir()
    table = write_csv(root / "lists/train.csv", [row()])
    knobs = {"labels": LABELS, "channels": {"intensity": "image"}}
    for manifest in ("lists/train.csv", str(table)):
        (case,) = Manifest(manifest=manifest, root=root, **knobs).cases()
        assert case.images == (root / "images/a.png",)
    (case,) = Manifest(manifest=table, **knobs).cases()
    assert checks(case) == ["missing_image"]


@pytest.mark.parametrize("written", [";", "\t", "|"])
def test_a_wrong_delimiter_is_told_with_the_right_one(root: Path, written: str) -> None:
    table = write_csv(root / "cases.csv", [row()], delimiter=written)
    knobs = {"manifest": table, "labels": LABELS, "channels": {"intensity": "image"}}
    with pytest.raises(DataError, match="delimiter") as caught:
        Manifest(**knobs).cases()
    assert repr(written) in str(caught.value)
    assert len(Manifest(**knobs, delimiter=written).cases()) == 1


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_wrong_encoding_is_told_with_the_right_one(root: Path, encoding: str) -> None:
    save(root / "images/Müller.png", GREY)
    table = write_csv(root / "cases.csv", [row("Müller")], encoding=encoding)
    knobs = {"manifest": table, "labels": LABELS, "channels": {"intensity": "image"}}
    with pytest.raises(DataError, match=f"perhaps to {encoding}"):
        Manifest(**knobs).cases()
    (case,) = Manifest(**knobs, encoding=encoding).cases()
    assert (case.case_id, case.faults) == ("images__Müller", ())


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_byte_order_mark_and_any_line_ends_are_no_obstacle(root: Path, newline: str) -> None:
    text = newline.join(["image , mask", "images/a.png, masks/a.png", "", " , ", ""])
    (root / "cases.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    source = Manifest(manifest=root / "cases.csv", labels=LABELS, channels={"intensity": "image"}, mask="mask")
    (case,) = source.cases()
    assert case.faults == ()


def test_columns_that_are_missing_are_all_told_with_the_nearest(root: Path) -> None:
    with pytest.raises(DataError, match="columns msak, patient") as caught:
        source_of(root, [row()], mask="msak", group="patient").cases()
    assert "did you mean mask" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cases.csv", b""),
        ("cases.csv", b"image,mask\n"),
        ("cases.csv", b"image,image\na.png,b.png\n"),
        ("cases.csv", b'image,mask\n"a.png,b.png\n'),
        ("cases.csv", b"\x00\x01\x02"),
        ("cases.csv", b"<!DOCTYPE html>\n<html></html>\n"),
        ("cases.jsonl", b""),
        ("cases.jsonl", b"[" * 100_000),
        ("cases.jsonl", b"[\n1\n]\n"),
        ("cases.jsonl", b"\xff\xfe"),
    ],
)
def test_a_file_that_is_no_such_table_is_told(root: Path, name: str, content: bytes) -> None:
    (root / name).write_bytes(content)
    with pytest.raises(DataError, match=name) as caught:
        Manifest(manifest=root / name, labels=LABELS, channels={"intensity": "image"}).cases()
    assert [fault.check for fault in caught.value.faults] == ["unlistable"]


def test_a_missing_table_is_told(root: Path) -> None:
    with pytest.raises(DataError, match=r"cases\.csv.*manifest"):
        Manifest(manifest=root / "cases.csv", labels=LABELS, channels={"intensity": "image"}).cases()


def test_a_row_of_another_length_is_told(root: Path) -> None:
    (root / "cases.csv").write_text("image,boxes\nimages/a.png,[[1, 2, 3, 4]]\nimages/b.png,[]\n")
    knobs = {"labels": {1: "lesion"}, "channels": {"intensity": "image"}, "boxes": "boxes"}
    broken, whole = Manifest(manifest=root / "cases.csv", **knobs).cases()
    assert (broken.case_id, checks(broken)) == ("line_2", ["unreadable_row"])
    assert "5 cells for 2 columns" in broken.faults[0].found
    assert (whole.case_id, whole.faults) == ("images__b", ())


@pytest.mark.parametrize("line", ["{", "3", "null", '["a"]'])
def test_a_line_that_is_no_json_object_is_told(root: Path, line: str) -> None:
    (root / "cases.jsonl").write_text(f"{json.dumps(row())}\n\n{line}\n")
    whole, broken = Manifest(
        manifest=root / "cases.jsonl", labels=LABELS, channels={"intensity": "image"}, mask="mask"
    ).cases()
    assert (broken.case_id, checks(broken)) == ("line_3", ["unreadable_row"])
    assert whole.faults == ()


def test_instances_get_the_label_of_their_mask(root: Path) -> None:
    save(root / "ids.png", np.where(MASK == 2, 9, 0).astype(np.uint8))
    source = source_of(root, [row(ids="ids.png")], mask="mask", instances="ids")
    annotation = source.read(source.cases()[0]).annotation
    np.testing.assert_array_equal(annotation.instances, MASK == 2)
    assert annotation.objects.labels.tolist() == [2]


@pytest.mark.parametrize(
    "knobs",
    [
        {"boxes": "boxes", "box_labels": "kinds", "instances": "ids", "mask": "mask"},
        {"box_format": "yxyx"},
        {"delimiter": ";;"},
        {"separator": ""},
        {"encoding": "klingon"},
        {"labels": {}},
        {"channels": {}},
        {"spatial_dims": 4},
        {"geometry": "off"},
    ],
)
def test_an_unfit_knob_is_refused(root: Path, knobs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"dataset\.source"):
        source_of(root, [row()], **knobs)
