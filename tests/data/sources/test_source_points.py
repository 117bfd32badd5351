from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image as Picture
from scipy.ndimage import center_of_mass, label

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Image
from medexp.data.sources.points import Points

SHAPE = (20, 30)


def grey(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(values).save(path)


def dots(*places: tuple[int, int], value: int = 255) -> np.ndarray:
    values = np.zeros(SHAPE, np.uint8)
    for place in places:
        values[place] = value
    return values


def add(root: Path, name: str, places: np.ndarray | str, ending: str = "png") -> Path:
    """An image with its dots or table, whose path is returned."""
    save(root / "images" / f"{name}.png", grey())
    path = root / "points" / f"{name}.{ending}"
    if isinstance(places, str):
        path.parent.mkdir(exist_ok=True)
        path.write_text(places, encoding="utf-8")
    else:
        save(path, places)
    return path


def read_first(root: Path, **knobs: Any) -> Image:
    source = Points(root=root, **knobs)
    return source.read(source.cases()[0])


def places_of(image: Image) -> list[list[float]]:
    """The places, after it is clear that the boxes have no extent."""
    objects = image.annotation.objects
    np.testing.assert_array_equal(objects.low, objects.high)
    return objects.centers.tolist()


def refused(root: Path, **knobs: Any) -> tuple[list[str], str]:
    with pytest.raises(DataError, match="case a") as caught:
        read_first(root, **knobs)
    return [fault.check for fault in caught.value.faults], str(caught.value)


def checks(root: Path, **knobs: Any) -> dict[str, list[str]]:
    """The checks that fail at listing, by case."""
    return {case.case_id: [fault.check for fault in case.faults] for case in Points(root=root, **knobs).cases()}


def test_a_dot_is_an_object_at_its_voxels_centre(tmp_path: Path) -> None:
    add(tmp_path, "a", dots((3, 4), (0, 0), (19, 29)))
    read = read_first(tmp_path)
    assert places_of(read) == [[0.5, 0.5], [3.5, 4.5], [19.5, 29.5]]
    assert read.annotation.objects.labels.tolist() == [1, 1, 1]
    assert Points(root=tmp_path).labels == {0: "background", 1: "object"}
    np.testing.assert_array_equal(read.pixels, grey()[None])
    assert read.annotation.mask is None


def test_an_image_without_dots_has_no_object(tmp_path: Path) -> None:
    add(tmp_path, "a", dots())
    assert read_first(tmp_path).annotation.objects.boxes.shape == (0, 4)


def test_a_dot_in_any_channel_counts_once(tmp_path: Path) -> None:
    add(tmp_path, "a", np.dstack([dots((1, 1), (2, 2)), dots((2, 2)), dots((5, 5), value=1)]))
    assert places_of(read_first(tmp_path)) == [[1.5, 1.5], [2.5, 2.5], [5.5, 5.5]]


def test_channels_can_be_classes(tmp_path: Path) -> None:
    add(tmp_path, "a", np.dstack([dots((1, 1)), dots((2, 2), (3, 3)), dots((5, 5))]))
    labels = {"lymphocyte": 4, "artefact": 0, "monocyte": 2}
    read = read_first(tmp_path, dots="channel", labels=labels)
    assert places_of(read) == [[1.5, 1.5], [5.5, 5.5]]
    assert read.annotation.objects.labels.tolist() == [4, 2]
    found, message = refused(tmp_path, dots="channel", labels={"cell": 1, "other": 2})
    assert found == ["unknown_label"]
    assert "2 channels" in message


def test_values_can_be_label_ids(tmp_path: Path) -> None:
    add(tmp_path, "a", dots((7, 7), value=3) + dots((1, 2), value=5))
    read = read_first(tmp_path, dots="value", labels={"cell": 5, "debris": 3})
    assert sorted(zip(places_of(read), read.annotation.objects.labels.tolist(), strict=True)) == [
        ([1.5, 2.5], 5),
        ([7.5, 7.5], 3),
    ]
    assert refused(tmp_path, dots="value", labels={"cell": 5})[0] == ["unknown_label"]


@pytest.mark.parametrize("connected", [False, True])
def test_dots_that_touch_are_one_object_only_where_told(tmp_path: Path, connected: bool) -> None:
    values = dots((2, 2), (2, 3), (3, 4), (10, 10), (15, 15), (15, 17))
    add(tmp_path, "a", values)
    spots, number = label(values, structure=np.ones((3, 3)))
    expected = np.array(center_of_mass(values, spots, range(1, number + 1))) if connected else np.argwhere(values)
    assert len(expected) == (4 if connected else 6)
    np.testing.assert_allclose(places_of(read_first(tmp_path, connected=connected)), expected + 0.5)


def test_images_and_dots_may_lie_in_one_folder(tmp_path: Path) -> None:
    for name in ("2", "10", "1"):
        save(tmp_path / f"{name}.png", grey())
        save(tmp_path / f"{name}dots.PNG", dots((1, 1)))
    cases = Points(root=tmp_path, image_files="{id}", point_files="{id}dots.png").cases()
    assert [(case.case_id, case.images[0].name, case.references["points"].name) for case in cases] == [
        ("1", "1.png", "1dots.PNG"),
        ("2", "2.png", "2dots.PNG"),
        ("10", "10.png", "10dots.PNG"),
    ]
    assert not any(case.faults for case in cases)


def test_names_match_whichever_form_of_unicode_they_have(tmp_path: Path) -> None:
    path = add(tmp_path, "Mu\u0308ller 1", dots())
    path.rename(path.with_name("M\u00fcller 1.png"))
    assert checks(tmp_path) == {"M\u00fcller 1": []}
    one_table(tmp_path, "image,y,x\nM\u00fcller 1.png,1,2\n")
    assert checks(tmp_path, **ONE_TABLE) == {"M\u00fcller 1": []}


def test_the_last_cases_are_the_test_part(tmp_path: Path) -> None:
    for name in ("2", "10", "1"):
        add(tmp_path, name, dots())
    split = {case.case_id: case.split for case in Points(root=tmp_path, test_last=2).cases()}
    assert split == {"1": None, "2": "test", "10": "test"}
    assert {case.split for case in Points(root=tmp_path).cases()} == {None}


def test_what_is_absent_or_there_twice_is_told_at_listing(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        add(tmp_path, name, dots())
    (tmp_path / "images/a.png").unlink()
    (tmp_path / "points/b.png").unlink()
    (tmp_path / "points/c.csv").write_text("y,x\n")
    assert checks(tmp_path) == {"a": ["missing_image"], "b": ["missing_label"], "c": ["several_labels"]}
    assert refused(tmp_path)[0] == ["missing_image"]


def test_dots_with_loss_or_of_another_shape_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", dots((1, 1)), ending="jpg")
    assert refused(tmp_path)[0] == ["lossy_mask"]
    (tmp_path / "points/a.jpg").unlink()
    add(tmp_path, "a", dots((1, 1))[:-1])
    assert refused(tmp_path)[0] == ["shape_mismatch"]


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", None], ids=["empty", "html", "truncated"])
def test_damaged_dots_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = add(tmp_path, "a", dots((1, 1)))
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    found, message = refused(tmp_path)
    assert found == ["unreadable"]
    assert str(path) in message


@pytest.mark.parametrize(
    ("table", "knobs"),
    [
        ("y,x\n3,4\n0.5,29\n", {}),
        ("x,other,y\n4,?,3\n29,?,0.5\n", {}),
        ("\ufeffx;y\n4;3\n29;0.5\n", {"delimiter": ";"}),
        ("4 3\n29 0.5\n", {"delimiter": " ", "axis_columns": [1, 0]}),
        ("y,x\n4,5\n1.5,30\n", {"first_voxel": 1.0}),
        ("y,x\n3.5,4.5\n1,29.5\n", {"first_voxel": 0.5}),
        ("row,column\n\n3, 4\n0.5,29\n", {"axis_columns": ["row", "column"]}),
    ],
)
def test_a_table_for_each_image_gives_places_along_the_axes_of_the_array(
    tmp_path: Path, table: str, knobs: dict[str, Any]
) -> None:
    add(tmp_path, "a", table, ending="csv")
    assert places_of(read_first(tmp_path, **knobs)) == [[3.5, 4.5], [1.0, 29.5]]


@pytest.mark.parametrize("table", ["y,x\n", "y,x\n,\n"])
def test_a_table_without_places_is_an_image_without_object(tmp_path: Path, table: str) -> None:
    add(tmp_path, "a", table, ending="csv")
    assert read_first(tmp_path).annotation.objects.boxes.shape == (0, 4)


def test_a_table_can_name_classes(tmp_path: Path) -> None:
    add(tmp_path, "a", "y,x,kind\n1,1,cell\n2,2,artefact\n3,3,cyst\n", ending="csv")
    read = read_first(tmp_path, label_column="kind", labels={"cyst": 1, "cell": 2, "artefact": 0})
    assert places_of(read) == [[1.5, 1.5], [3.5, 3.5]]
    assert read.annotation.objects.labels.tolist() == [2, 1]
    found, message = refused(tmp_path, label_column="kind", labels={"cell": 1, "cysts": 2})
    assert found == ["unknown_label"]
    assert "artefact" in message


@pytest.mark.parametrize(
    ("content", "check"),
    [
        (b"y;x\n1;2\n", "missing_column"),
        (b"", "missing_column"),
        (b"y,x\n1\n", "malformed_row"),
        (b"y,x\none,2\n", "malformed_row"),
        (b"y,x\n1,\n", "malformed_row"),
        ("y,x\n1,2\n\u00b5".encode("utf-16"), "unreadable"),
        (b"y,x\n\xff,2\n", "unreadable"),
    ],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, check: str) -> None:
    path = add(tmp_path, "a", "", ending="csv")
    path.write_bytes(content)
    found, message = refused(tmp_path)
    assert found == [check]
    assert str(path) in message


def test_a_broken_row_is_told_with_its_line(tmp_path: Path) -> None:
    add(tmp_path, "a", "y,x\n1,2\n\n3,x\n", ending="csv")
    assert "in line 4" in refused(tmp_path)[1]


ONE_TABLE = {"point_files": "all.csv", "image_column": "image"}


def one_table(root: Path, text: str, *names: str) -> None:
    for name in names:
        save(root / "images" / f"{name}.png", grey())
    (root / "all.csv").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("written", ["b", "b.png", "images/b.png", "C:\\data\\b.png"])
def test_one_table_names_the_image_of_each_place(tmp_path: Path, written: str) -> None:
    one_table(tmp_path, f"image,y,x\n{written},1,2\na,3,4\nb,5,6\nc,,\n", "a", "b", "c")
    source = Points(root=tmp_path, **ONE_TABLE)
    cases = source.cases()
    assert [case.case_id for case in cases] == ["a", "b", "c"]
    assert all(case.faults == () and case.references == {} for case in cases)
    assert [places_of(source.read(case)) for case in cases] == [[[3.5, 4.5]], [[1.5, 2.5], [5.5, 6.5]], []]
    assert cases[0].facts == {"places": [[3.0, 4.0]], "labels": [1]}


def test_what_one_table_does_not_name_is_a_fault_or_empty(tmp_path: Path) -> None:
    one_table(tmp_path, "image,y,x\na,1,2\ngone,3,4\n", "a", "b")
    assert checks(tmp_path, **ONE_TABLE) == {"a": [], "b": ["missing_label"], "gone": ["missing_image"]}
    source = Points(root=tmp_path, unlisted="empty", **ONE_TABLE)
    assert len(source.read(source.cases()[1]).annotation.objects) == 0


def test_rows_of_one_table_that_cannot_be_read_are_told_with_their_cases(tmp_path: Path) -> None:
    one_table(tmp_path, "image,y,x,kind\na,1,?,cell\nb,3,4,cel\nc,1,1,cell\n", "a", "b", "c")
    knobs = {"label_column": "kind", "labels": {"cell": 1}}
    assert checks(tmp_path, **ONE_TABLE, **knobs) == {"a": ["malformed_row"], "b": ["unknown_label"], "c": []}


def test_one_table_that_is_missing_or_has_other_columns_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", grey())
    with pytest.raises(DataError, match=r"all\.csv"):
        Points(root=tmp_path, **ONE_TABLE).cases()
    one_table(tmp_path, "images,y,x\n")
    with pytest.raises(DataError, match="did you mean images"):
        Points(root=tmp_path, **ONE_TABLE).cases()


def test_volumes_have_places_along_three_axes(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    marks = np.zeros(volume.shape, np.uint8)
    marks[1, 2, 3] = marks[4, 5, 6] = 1
    affine = np.diag([0.5, 0.6, 2.0, 1.0])
    for folder, voxels in (("images", volume), ("points", marks)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / folder / "a.nii.gz")
    knobs = {"spatial_dims": 3, "axis_columns": ["x", "y", "z"]}
    read = read_first(tmp_path, **knobs)
    assert places_of(read) == [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]
    assert read.geometry.spacing_mm == pytest.approx((0.5, 0.6, 2.0))
    (tmp_path / "points/a.nii.gz").unlink()
    (tmp_path / "points/a.csv").write_text("x,y,z\n1,2,3\n4,5,6\n")
    assert places_of(read_first(tmp_path, **knobs)) == [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]


def test_the_voxels_of_a_detached_header_are_part_of_the_case(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "points").mkdir()
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), tmp_path / "images/a.mhd")
    (tmp_path / "points/a.csv").write_text("x,y,z\n1,2,3\n")
    (case,) = Points(root=tmp_path, spatial_dims=3, axis_columns=["x", "y", "z"]).cases()
    assert {path.name for path in case.files} == {"a.mhd", "a.raw", "a.csv"}


def test_the_patient_is_found_in_the_id(tmp_path: Path) -> None:
    for name in ("p1_1", "p1_2", "x"):
        add(tmp_path, name, dots())
    assert [case.group for case in Points(root=tmp_path, group_pattern="(p.)_").cases()] == ["p1", "p1", "x"]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_files"):
        Points(root=tmp_path).cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, "root"),
        ({"dots": "all"}, "dots"),
        ({"unlisted": "leave_out"}, "unlisted"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"test_last": -1}, "test_last"),
        ({"image_files": "images/*.png"}, "image_files"),
        ({"image_files": "{id}/{id}.png"}, "image_files"),
        ({"image_files": "../{id}.png"}, "image_files"),
        ({"point_files": "{id}/dots.png"}, "point_files"),
        ({"point_files": "all.csv"}, "point_files"),
        ({"point_files": "../all.csv", "image_column": "image"}, "point_files"),
        ({"axis_columns": ["x"]}, "axis_columns"),
        ({"axis_columns": ["x", "x"]}, "columns"),
        ({"axis_columns": ["x", 1]}, "columns"),
        ({"delimiter": ", "}, "delimiter"),
        ({"labels": {"cell": 0}}, "labels"),
    ],
)
def test_unfit_knobs_are_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Points(**{"root": tmp_path} | knobs)


@pytest.mark.real_data
def test_real_cells_are_as_many_as_published_where_each_pixel_is_a_dot(shared_data: Callable[[str], Path]) -> None:
    knobs: dict[str, Any] = {"image_files": "{id}cell", "point_files": "{id}dots", "channels": ["r", "g", "b"]}
    source = Points(root=shared_data("vgg_cells"), test_last=100, **knobs)
    cases = source.cases()
    assert [case.case_id for case in cases if case.split == "test"] == [f"{n:03d}" for n in range(101, 201)]
    assert len(cases) == 200
    assert not any(case.faults for case in cases)
    numbers = [len(source.read(case).annotation.objects) for case in cases]
    assert (round(np.mean(numbers)), round(np.std(numbers))) == (176, 61)
