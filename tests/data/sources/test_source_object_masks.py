from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from skimage.draw import disk
from skimage.measure import regionprops

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.core.types import Image
from medexp.data.sources._instances import Layered, numbered
from medexp.data.sources.object_masks import ObjectMasks

SHAPE = (40, 30)


def save(path: Path, values: np.ndarray, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(values).save(path, **options)


def grey(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def spot(row: int, column: int, radius: float) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[disk((row, column), radius, shape=SHAPE)] = 255
    return mask


def add(root: Path, name: str, *masks: np.ndarray, image: np.ndarray | None = None) -> None:
    """An image and its masks, which are named so that their order is that of the arguments."""
    save(root / name / "images" / f"{name}.png", grey() if image is None else image)
    (root / name / "masks").mkdir()
    for number, mask in enumerate(masks):
        save(root / name / "masks" / f"{number}.png", mask)


def read_first(root: Path, **knobs: Any) -> Image:
    source = ObjectMasks(root=root, **knobs)
    return source.read(source.cases()[0])


def refused(root: Path, check: str, **knobs: Any) -> str:
    """The message with which reading the first case fails, after the check that failed."""
    with pytest.raises(DataError) as caught:
        read_first(root, **knobs)
    assert [fault.check for fault in caught.value.faults] == [check]
    assert all(fault.case_id == "a" for fault in caught.value.faults)
    return str(caught.value)


def test_each_mask_is_an_instance_with_its_box_and_label(tmp_path: Path) -> None:
    add(tmp_path, "a", spot(10, 10, 5), spot(28, 20, 4))
    read = read_first(tmp_path, class_name="nucleus")
    expected = np.zeros(SHAPE, np.int64)
    expected[spot(10, 10, 5) > 0], expected[spot(28, 20, 4) > 0] = 1, 2
    np.testing.assert_array_equal(read.annotation.instances, expected)
    np.testing.assert_array_equal(read.annotation.mask, expected > 0)
    assert read.annotation.objects.boxes.tolist() == [list(region.bbox) for region in regionprops(expected)]
    assert read.annotation.objects.labels.tolist() == [1, 1]
    assert ObjectMasks(root=tmp_path, class_name="nucleus").labels == {0: "background", 1: "nucleus"}
    np.testing.assert_array_equal(read.pixels, grey()[None].astype(np.float32))
    assert (read.geometry.shape, read.geometry.unit) == (SHAPE, "px")


def test_cases_are_folders_in_natural_order_and_others_are_passed_over(tmp_path: Path) -> None:
    for name in ("img10", "img2", "Ünit 3"):
        add(tmp_path, name)
    (tmp_path / "__MACOSX").mkdir()
    add(tmp_path, ".hidden")
    (tmp_path / "README.txt").write_text("x")
    cases = ObjectMasks(root=tmp_path).cases()
    assert [case.case_id for case in cases] == ["img2", "img10", "Ünit 3"]
    assert [case.group for case in cases] == ["img2", "img10", "Ünit 3"]
    assert not any(case.faults for case in cases)


def test_where_objects_overlap_the_smaller_lies_on_top(tmp_path: Path) -> None:
    large, small = spot(15, 15, 8), spot(20, 15, 5)
    for name, masks in (("a", (large, small)), ("b", (small, large))):
        add(tmp_path, name, *masks)
    source = ObjectMasks(root=tmp_path)
    for case, small_id in zip(source.cases(), (2, 1), strict=True):
        instances = source.read(case).annotation.instances
        np.testing.assert_array_equal(instances == small_id, small > 0)
        np.testing.assert_array_equal(instances == 3 - small_id, (large > 0) & (small == 0))


def test_objects_that_share_more_than_the_knob_allows_are_told_as_a_warning(tmp_path: Path) -> None:
    left, right = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    left[5:10, 0:10], right[5:10, 8:18] = 1, 1  # 10 of 50 voxels are shared
    add(tmp_path, "a", left, right)
    assert read_first(tmp_path, max_overlap=0.2).case.faults == ()
    (fault,) = read_first(tmp_path, max_overlap=0.19).case.faults
    assert (fault.check, fault.severity, fault.case_id) == ("overlapping_objects", Severity.WARNING, "a")
    assert fault.found == "2 of 2 that are not (number 1, 2)"


@pytest.mark.parametrize("other", [spot(20, 10, 6), np.zeros(SHAPE, np.uint8)], ids=["hidden", "empty"])
def test_an_object_without_voxels_of_its_own_is_left_out_and_told(tmp_path: Path, other: np.ndarray) -> None:
    add(tmp_path, "a", other, spot(20, 10, 6), spot(30, 22, 4))
    read = read_first(tmp_path, max_overlap=1.0)
    assert np.unique(read.annotation.instances).tolist() == [0, 1, 2]
    assert len(read.annotation.objects) == 2
    assert [fault.check for fault in read.case.faults] == ["object_without_voxels"]
    assert "number 1)" in read.case.faults[0].found


def test_an_object_in_two_parts_stays_one_instance(tmp_path: Path) -> None:
    add(tmp_path, "a", spot(6, 6, 3) | spot(30, 20, 3))
    annotation = read_first(tmp_path).annotation
    assert annotation.objects.boxes.tolist() == [[4, 4, 33, 23]]
    assert annotation.instances.max() == 1


def test_an_empty_folder_of_masks_means_no_object(tmp_path: Path) -> None:
    add(tmp_path, "a")
    annotation = read_first(tmp_path).annotation
    assert annotation.objects.boxes.shape == (0, 4)
    assert not annotation.instances.any()
    assert not annotation.mask.any()


@pytest.mark.parametrize(
    "saved",
    [spot(10, 10, 5), spot(10, 10, 5) > 0, (spot(10, 10, 5) > 0).astype(np.uint16) * 40_000],
    ids=["0 and 255", "one bit", "16 bits"],
)
def test_masks_of_any_type_are_read(tmp_path: Path, saved: np.ndarray) -> None:
    add(tmp_path, "a", saved)
    np.testing.assert_array_equal(read_first(tmp_path).annotation.mask, spot(10, 10, 5) > 0)


def test_more_than_255_objects_have_ids_of_their_own() -> None:
    layered = Layered.of([np.array([place]) for place in range(300)], (20, 20))
    assert layered.instances.reshape(-1)[:300].tolist() == list(range(1, 301))


def test_grey_values_saved_as_colours_are_one_channel(tmp_path: Path) -> None:
    opaque = np.dstack([grey()] * 3 + [np.full(SHAPE, 255, np.uint8)])
    add(tmp_path, "a", image=opaque)
    np.testing.assert_array_equal(read_first(tmp_path).pixels, grey()[None])
    assert read_first(tmp_path, channels=["red", "green", "blue"]).pixels.shape == (3, *SHAPE)


def test_colours_where_one_channel_is_declared_are_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", image=np.dstack([grey(0), grey(1), grey(2)]))
    assert "1 channels (intensity), got 3 that differ" in refused(tmp_path, "wrong_channels")


def test_a_mask_of_several_values_is_refused(tmp_path: Path) -> None:
    smooth = spot(10, 10, 5)
    smooth[10, 10] = 128
    add(tmp_path, "a", spot(30, 20, 4), smooth)
    assert "got 2, from 128 to 255" in refused(tmp_path, "several_objects")


def test_a_mask_of_another_shape_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a", spot(10, 10, 5)[:-1])
    assert "shape (40, 30) as the image has, got (39, 30)" in refused(tmp_path, "shape_mismatch")


def test_a_mask_with_loss_is_refused(tmp_path: Path) -> None:
    add(tmp_path, "a")
    save(tmp_path / "a/masks/0.jpg", spot(10, 10, 5))
    refused(tmp_path, "lossy_mask")


@pytest.mark.parametrize("folder", ["images/a.png", "masks/0.png"])
@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", None], ids=["empty", "html", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, folder: str, content: bytes | None) -> None:
    add(tmp_path, "a", spot(10, 10, 5))
    path = tmp_path / "a" / folder
    path.write_bytes(path.read_bytes()[:-30] if content is None else content)
    assert str(path) in refused(tmp_path, "unreadable")


def test_what_a_folder_lacks_or_has_too_much_of_is_told_at_listing(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        add(tmp_path, name, spot(10, 10, 5))
    (tmp_path / "a/images/a.png").unlink()
    save(tmp_path / "b/images/second.png", grey())
    (tmp_path / "c/masks/0.png").unlink()
    (tmp_path / "c/masks").rmdir()
    source = ObjectMasks(root=tmp_path)
    cases = source.cases()
    assert [[fault.check for fault in case.faults] for case in cases] == [
        ["missing_image"],
        ["several_images"],
        ["missing_label"],
        [],
    ]
    for case in cases[:3]:
        with pytest.raises(DataError, match=f"case {case.case_id}"):
            source.read(case)


def test_the_patient_is_found_in_the_folders_name(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "x"):
        add(tmp_path, name)
    cases = ObjectMasks(root=tmp_path, group_pattern=r"^(p\d+)_").cases()
    assert [case.group for case in cases] == ["p1", "p1", "x"]
    assert [[fault.check for fault in case.faults] for case in cases] == [[], [], ["missing_group"]]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folders that hold images and masks"):
        ObjectMasks(root=tmp_path).cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, r"dataset\.root"),
        ({"max_overlap": 1.5}, "max_overlap"),
        ({"channels": "grey"}, "channels"),
        ({"channels": ["a", "a"]}, "channels"),
        ({"group_pattern": "("}, "group_pattern"),
        ({"group_pattern": "a"}, "group_pattern"),
    ],
)
def test_unfit_knobs_are_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ObjectMasks(**{"root": tmp_path} | knobs)


@pytest.mark.parametrize("seed", range(5))
def test_laying_objects_on_each_other_is_what_a_painter_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = [np.flatnonzero(rng.random(60) < share) for share in rng.uniform(0, 0.7, 6)]
    layered = Layered.of(objects, (6, 10))
    painted = np.full(60, -1)
    for number in sorted(range(6), key=lambda number: len(objects[number]), reverse=True):
        for voxel in objects[number]:
            painted[voxel] = number
    owners = np.concatenate([[-1], layered.kept])[layered.instances.reshape(-1)]
    np.testing.assert_array_equal(owners, painted)
    for number, voxels in enumerate(objects):
        others = set().union(*(set(other.tolist()) for k, other in enumerate(objects) if k != number))
        shared = [voxel in others for voxel in voxels.tolist()]
        assert layered.shared[number] == pytest.approx(np.mean(shared) if shared else 0.0)


@pytest.mark.parametrize(
    "ids", [[[0, 7], [7, 3]], [[5, 5], [9, 9]], [[0, 0], [0, 0]], [[2**40, 0], [2**40, 2**33]], [[2**40, 1], [1, 1]]]
)
def test_numbering_keeps_the_order_of_ids_and_says_what_they_were(ids: list[list[int]]) -> None:
    instances, originals = numbered(np.array(ids))
    np.testing.assert_array_equal(np.array([0, *originals])[instances], ids)
    assert originals.tolist() == sorted(set(np.ravel(ids).tolist()) - {0})


@pytest.mark.real_data
def test_real_nuclei_of_the_data_science_bowl_are_whole(shared_data: Callable[[str], Path]) -> None:
    source = ObjectMasks(root=shared_data("dsb2018_fluorescence"), class_name="nucleus")
    cases = source.cases()
    assert len(cases) == 541
    assert not any(case.faults for case in cases)
    for case in cases[::45]:
        read = source.read(case)
        assert len(read.annotation.objects) == len(case.references) > 0
        assert read.pixels.shape[0] == 1
        assert read.case.faults == ()
