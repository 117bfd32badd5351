from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image as PillowImage
from scipy import ndimage

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.data.sources.class_masks import ClassMasks
from medexp.data.splits import KFold

CONF = Path(__file__).parents[3] / "conf" / "dataset" / "taiwan_white_matter.yaml"
CLASSES = {"white matter": 1, "lesion": 2}
SHAPE = (512, 512)


def configured(root: Path, **knobs: Any) -> ClassMasks:
    """The source as its configuration has it, but for some knobs."""
    config = OmegaConf.merge({"dataset": {"root": str(root)}}, OmegaConf.load(CONF))
    known = OmegaConf.to_container(OmegaConf.create(config), resolve=True)["source"]
    known.pop("_target_")
    return ClassMasks(**(known | knobs))


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PillowImage.fromarray(values).save(path, compress_level=1)


def write_classes(root: Path, classes: Any = CLASSES) -> None:
    (root / "classes.json").write_text(json.dumps(classes))


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A mask of white matter with lesions in it, and the lesions by number, with gaps between the numbers."""
    random = np.random.default_rng(seed)
    mask, instances = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.int32)
    mask[100:400, 120:380] = 1
    for number in range(1, 4):
        row, column = np.add(random.integers(0, 80, 2), (100 * number, 130))
        mask[row : row + 9, column : column + 5] = 2
        instances[row : row + 9, column : column + 5] = 300 * number
    return mask, instances


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two subjects with two slices each, the last of which shows nothing."""
    write_classes(tmp_path)
    for number, name in enumerate(("S1_01", "S1_02", "S2_01", "S2_02")):
        mask, instances = drawn(number)
        if name == "S2_02":
            mask[:], instances[:] = 0, 0
        save(tmp_path / "images" / f"{name}.png", (mask * 90).astype(np.uint8))
        save(tmp_path / "masks" / f"{name}.png", mask)
        save(tmp_path / "instances" / f"{name}.png", instances.astype(np.uint16))
    return tmp_path


def errors(root: Path) -> dict[str, list[str]]:
    """Names of the errors with which each case is listed; such a case cannot be read."""
    source = configured(root)
    found = {}
    for case in source.cases():
        own = [fault.check for fault in case.faults if fault.severity is Severity.ERROR]
        if own:
            found[case.case_id] = own
            with pytest.raises(DataError, match=case.case_id):
                source.read(case)
    return found


def test_the_whole_set_is_listed_with_its_subjects_kept_together(tmp_path: Path) -> None:
    write_classes(tmp_path)
    mask, _ = drawn(0)
    for folder, values in (("images", mask * 90), ("masks", mask)):
        save(tmp_path / folder / "0_000.png", values)
        for number in range(1, 9_780):
            os.link(tmp_path / folder / "0_000.png", tmp_path / folder / f"{number // 30}_{number % 30:03d}.png")
    source = configured(tmp_path)
    cases = source.cases()
    assert len(cases) == len({case.case_id for case in cases}) == 9_780
    assert len({case.group for case in cases}) == 326
    assert not any(case.faults for case in cases)
    parts = KFold(n_folds=5, seed=0)(cases, fold=0)
    assert not {case.group for case in parts.train} & {case.group for case in parts.val}
    for case in cases[::3000]:
        read = source.read(case)
        assert read.pixels.shape == (1, *SHAPE)
        np.testing.assert_array_equal(read.annotation.mask, mask)
        assert not read.case.faults


def test_masks_objects_and_labels_of_a_case_agree(root: Path) -> None:
    source = configured(root)
    assert source.labels == {0: "background", 1: "white matter", 2: "lesion"}
    assert (source.name, source.channels) == ("taiwan_white_matter", ("MR",))
    for number, case in enumerate(source.cases()[:3]):
        read = source.read(case)
        mask, instances = drawn(number)
        np.testing.assert_array_equal(read.pixels[0], mask * 90)
        np.testing.assert_array_equal(read.annotation.mask, mask)
        np.testing.assert_array_equal(read.annotation.instances, instances // 300)
        slices = ndimage.find_objects(instances // 300)
        ends = [[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in slices]
        assert read.annotation.objects.boxes.tolist() == ends
        assert read.annotation.objects.labels.tolist() == [2, 2, 2]
        assert read.annotation.image_labels == (1, 2)


def test_a_slice_that_shows_nothing_has_label_0_and_no_object(root: Path) -> None:
    annotation = configured(root).read(configured(root).cases()[3]).annotation
    assert annotation.image_labels == (0,)
    assert len(annotation.objects) == 0
    assert not annotation.mask.any()


def test_without_instance_maps_there_are_no_objects(root: Path) -> None:
    for path in (root / "instances").iterdir():
        path.unlink()
    annotation = configured(root).read(configured(root).cases()[0]).annotation
    assert annotation.objects is None
    assert annotation.mask.any()


def test_slices_of_a_subject_are_one_group(root: Path) -> None:
    assert [case.group for case in configured(root).cases()] == ["S1", "S1", "S2", "S2"]
    assert [case.group for case in configured(root, group_pattern=None).cases()] == ["S1_01", "S1_02", "S2_01", "S2_02"]


def test_a_name_without_a_subject_is_a_fault(root: Path) -> None:
    for folder in ("images", "masks", "instances"):
        (root / folder / "S1_01.png").rename(root / folder / "S101.png")
    assert errors(root) == {"S101": ["missing_group"]}


@pytest.mark.parametrize(
    ("folder", "check"), [("images", "missing_image"), ("masks", "missing_label"), ("instances", "missing_label")]
)
def test_a_missing_file_is_named(root: Path, folder: str, check: str) -> None:
    (root / folder / "S1_02.png").unlink()
    assert errors(root) == {"S1_02": [check]}


def test_two_files_of_one_name_are_named(root: Path) -> None:
    (root / "masks" / "S1_02.PNG").write_bytes((root / "masks" / "S1_02.png").read_bytes())
    assert errors(root) == {"S1_02": ["several_files"]}


def test_another_number_of_images_is_a_warning_of_the_whole_set(root: Path) -> None:
    first, *others = configured(root).cases()
    (fault,) = first.faults
    assert (fault.check, fault.severity, fault.case_id) == ("image_count", Severity.WARNING, None)
    assert (fault.expected, fault.found) == ("9780 images", "4")
    assert not any(case.faults for case in others)
    assert not configured(root, n_images=None).cases()[0].faults


def test_another_shape_is_a_warning_of_the_case(root: Path) -> None:
    for folder in ("images", "masks", "instances"):
        save(root / folder / "S1_02.png", np.zeros((40, 50), np.uint8))
    source = configured(root)
    read = source.read(source.cases()[1])
    assert [(fault.check, fault.severity) for fault in read.case.faults] == [("image_shape", Severity.WARNING)]
    assert read.pixels.shape == (1, 40, 50)
    assert not configured(root, shape=None).read(source.cases()[1]).case.faults


@pytest.mark.parametrize("folder", ["masks", "instances"])
def test_an_annotation_of_another_shape_is_refused(root: Path, folder: str) -> None:
    save(root / folder / "S1_01.png", np.zeros((512, 511), np.uint8))
    with pytest.raises(DataError, match=r"shape \(512, 512\) as the image has, got \(512, 511\)"):
        configured(root).read(configured(root).cases()[0])


@pytest.mark.parametrize("place", [(0, 0), (99, 200)], ids=["on the background", "across the border of a class"])
def test_an_object_without_one_class_is_refused(root: Path, place: tuple[int, int]) -> None:
    _, instances = drawn(0)
    instances[place[0] : place[0] + 2, place[1]] = 7
    save(root / "instances" / "S1_01.png", instances.astype(np.uint16))
    with pytest.raises(DataError, match="1 objects on several classes or on the background") as caught:
        configured(root).read(configured(root).cases()[0])
    assert [(fault.check, fault.case_id) for fault in caught.value.faults] == [("instance_class", "S1_01")]


def test_a_picture_in_colour_is_refused(root: Path) -> None:
    save(root / "images" / "S1_01.png", np.random.default_rng(0).integers(0, 255, (*SHAPE, 3)).astype(np.uint8))
    with pytest.raises(DataError, match="3 that differ"):
        configured(root).read(configured(root).cases()[0])


def test_a_damaged_file_is_named(root: Path) -> None:
    (root / "masks" / "S1_01.png").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(DataError, match=r"case S1_01: .*masks/S1_01\.png"):
        configured(root).read(configured(root).cases()[0])


@pytest.mark.parametrize(
    "classes", [{"organ": 0}, {"organ": "1"}, {"organ": 1, "lesion": 1}, ["organ"], {}, {"organ": [1]}, 3]
)
def test_names_of_classes_that_are_no_mapping_to_ids_are_refused(root: Path, classes: Any) -> None:
    write_classes(root, classes)
    with pytest.raises(DataError, match=r"classes\.json"):
        _ = configured(root).labels


def test_missing_or_malformed_names_of_classes_are_refused(root: Path) -> None:
    (root / "classes.json").write_text("{")
    with pytest.raises(DataError, match=r"classes\.json"):
        _ = configured(root).labels
    (root / "classes.json").unlink()
    with pytest.raises(DataError, match=r"classes\.json"):
        _ = configured(root).labels


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images and masks"):
        configured(tmp_path).cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"shape": [512]}, "rows and columns"),
        ({"shape": [512, 0]}, "rows and columns"),
        ({"n_images": 0}, "n_images"),
        ({"group_pattern": "("}, "group_pattern"),
    ],
)
def test_an_unfit_knob_is_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configured(tmp_path, **knobs)


def test_an_unset_root_is_named() -> None:
    with pytest.raises(UsageError, match=r"dataset\.root"):
        ClassMasks(root=None, name="taiwan_white_matter")
