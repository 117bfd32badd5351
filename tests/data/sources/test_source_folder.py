from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image as Picture

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.core.types import Case, Image, Source
from medexp.data.sources.folder import Folder

SHAPE = (8, 6)
LABELS = {0: "background", 1: "vessel", 2: "lesion"}
GREY = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint8)
MASK = (np.arange(np.prod(SHAPE)).reshape(SHAPE) // 7 % 3).astype(np.uint8)
AFFINE = np.diag([0.8, 0.7, 2.5, 1.0])


def save(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.lower().endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(values, affine), path)
    elif path.name.endswith((".nrrd", ".mhd")):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T)), str(path))
    else:
        Picture.fromarray(values).save(path)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    save(tmp_path / "images/a.png", GREY)
    save(tmp_path / "masks/a.png", MASK)
    return tmp_path


def folder(root: Path, **knobs: Any) -> Folder:
    return Folder(root=root, **{"labels": LABELS, **knobs})


def read_one(root: Path, **knobs: Any) -> Image:
    source = folder(root, **knobs)
    (case,) = source.cases()
    return source.read(case)


def faults(root: Path, **knobs: Any) -> dict[str, list[str]]:
    """The checks that each listed case failed."""
    return {case.case_id: [fault.check for fault in case.faults] for case in folder(root, **knobs).cases()}


def test_a_source_of_pairs(pair: Path) -> None:
    source = folder(pair, channels=["fundus"])
    assert isinstance(source, Source)
    assert (source.name, source.spatial_dims, source.public) == (pair.name, 2, False)
    assert source.channels == ("fundus",)
    assert source.labels == LABELS
    (case,) = source.cases()
    assert case == Case("a", "a", (pair / "images/a.png",), {"mask": pair / "masks/a.png"})


def test_labels_are_a_background_and_a_foreground_unless_told(pair: Path) -> None:
    assert folder(pair, labels=None).labels == {0: "background", 1: "foreground"}


def test_pixels_and_mask_are_those_of_the_files(pair: Path) -> None:
    image = read_one(pair)
    np.testing.assert_array_equal(image.pixels, GREY[None])
    np.testing.assert_array_equal(image.annotation.mask, MASK)
    assert (image.geometry.shape, image.geometry.unit) == (SHAPE, "px")


@pytest.mark.parametrize("mask_ending", [".png", ".tif", ".bmp", ".gif", ".nii.gz", ".nrrd", ".mhd", ".PNG"])
@pytest.mark.parametrize("image_ending", [".png", ".JPG", ".tiff", ".bmp"])
def test_image_and_mask_may_have_different_formats(tmp_path: Path, image_ending: str, mask_ending: str) -> None:
    path = save(tmp_path / f"images/Müller 1{image_ending}", GREY)
    save(tmp_path / f"masks/Müller 1{mask_ending}", MASK)
    source = folder(tmp_path)
    (case,) = source.cases()
    assert case.case_id == "Müller 1"
    image = source.read(case)
    np.testing.assert_array_equal(image.annotation.mask, MASK)
    np.testing.assert_array_equal(image.pixels[0], np.asarray(Picture.open(path)))


def test_images_and_masks_may_each_have_a_suffix(tmp_path: Path) -> None:
    save(tmp_path / "images/21_training.png", GREY)
    save(tmp_path / "images/notes.png", GREY)
    save(tmp_path / "masks/21_manual1.gif", MASK)
    (case,) = folder(tmp_path, image_suffix="_training", mask_suffix="_manual1").cases()
    assert (case.case_id, case.faults) == ("21", ())


def test_names_match_in_either_form_of_unicode(tmp_path: Path) -> None:
    save(tmp_path / "images/M\u00fcller.png", GREY)
    save(tmp_path / "masks/Mu\u0308ller.png", MASK)
    assert faults(tmp_path) == {"M\u00fcller": []}


def test_volumes_keep_their_grid(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        save(tmp_path / name / "a.nii.gz", np.stack([MASK, MASK, MASK], axis=-1))
    image = read_one(tmp_path, spatial_dims=3)
    assert image.pixels.shape == (1, *SHAPE, 3)
    np.testing.assert_allclose(image.geometry.affine, AFFINE, rtol=1e-6)


def test_colours_are_channels_and_grey_saved_as_colours_is_one(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (*SHAPE, 3), dtype=np.uint8)
    save(tmp_path / "images/a.png", colours)
    save(tmp_path / "masks/a.png", MASK)
    image = read_one(tmp_path, channels=["red", "green", "blue"])
    np.testing.assert_array_equal(image.pixels, np.moveaxis(colours, -1, 0))
    with pytest.raises(DataError, match=r"case a: .*a\.png needs 1 channels"):
        read_one(tmp_path)
    save(tmp_path / "images/a.png", np.repeat(GREY[..., None], 3, axis=-1))
    np.testing.assert_array_equal(read_one(tmp_path).pixels, GREY[None])


def test_a_mask_of_0_and_255_is_mapped(pair: Path) -> None:
    save(pair / "masks/a.png", (MASK > 0).astype(np.uint8) * 255)
    np.testing.assert_array_equal(read_one(pair, value_map={255: 1}).annotation.mask, MASK > 0)
    assert set(np.unique(read_one(pair).annotation.mask)) == {0, 255}


def test_values_change_places_at_once(pair: Path) -> None:
    mask = read_one(pair, value_map={1: 2, 2: 1, 0: 300}).annotation.mask
    np.testing.assert_array_equal(mask, np.array([300, 2, 1])[MASK])


@pytest.mark.parametrize(
    ("value_map", "spacing"), [({255: -1}, None), ({255: 70_000}, None), (None, [1.0]), (None, [1.0, 0.0])]
)
def test_unfit_numbers_are_refused(pair: Path, value_map: Any, spacing: Any) -> None:
    with pytest.raises(UsageError, match=r"value_map|spacing_mm"):
        folder(pair, value_map=value_map, spacing_mm=spacing)


def test_a_spacing_for_pictures_gives_them_a_scale(pair: Path) -> None:
    image = read_one(pair, spacing_mm=[0.5, 2.0])
    assert (image.geometry.spacing_mm, image.geometry.unit) == ((0.5, 2.0), "mm")


def test_a_picture_as_the_mask_of_a_volume_has_its_grid(tmp_path: Path) -> None:
    save(tmp_path / "images/a.nii.gz", GREY[..., None])
    save(tmp_path / "masks/a.png", MASK)
    image = read_one(tmp_path, spacing_mm=[9.0, 9.0])
    assert image.geometry.spacing_mm == pytest.approx((0.8, 0.7))
    np.testing.assert_array_equal(image.annotation.mask, MASK)


@pytest.mark.parametrize("same_folder", [False, True])
def test_a_suffix_tells_masks(tmp_path: Path, same_folder: bool) -> None:
    masks = "images" if same_folder else "masks"
    save(tmp_path / "images/a.png", GREY)
    save(tmp_path / masks / "a_mask.png", MASK)
    assert faults(tmp_path, mask_folder=masks, mask_suffix="_mask") == {"a": []}
    np.testing.assert_array_equal(read_one(tmp_path, mask_folder=masks, mask_suffix="_mask").annotation.mask, MASK)


def test_three_kinds_of_files_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    for name in ("a", "a_mask", "a_mask_ids"):
        save(tmp_path / f"{name}.png", MASK)
    knobs = {"image_folder": ".", "mask_folder": ".", "instance_folder": "."}
    (case,) = folder(tmp_path, **knobs, mask_suffix="_mask", instance_suffix="_mask_ids").cases()
    assert [path.name for path in case.files] == ["a.png", "a_mask.png", "a_mask_ids.png"]


def test_folders_of_one_role_need_to_differ(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folders of their own"):
        folder(tmp_path, mask_folder="images")


def test_folders_below_are_searched_on_demand(tmp_path: Path) -> None:
    for name in ("a", "sub/a", "sub/deep/b"):
        save(tmp_path / f"images/{name}.png", GREY)
        save(tmp_path / f"masks/{name}.png", MASK)
    assert faults(tmp_path) == {"a": []}
    assert faults(tmp_path, recursive=True) == {"a": [], "sub__a": [], "sub__deep__b": []}


def test_masks_in_a_folder_below_the_images_are_no_images(tmp_path: Path) -> None:
    save(tmp_path / "a.png", GREY)
    save(tmp_path / "masks/a.png", MASK)
    assert faults(tmp_path, image_folder=".", recursive=True) == {"a": []}


def test_missing_and_repeated_files_are_faults_of_their_case(pair: Path) -> None:
    save(pair / "images/no_mask.png", GREY)
    save(pair / "masks/no_image.png", MASK)
    save(pair / "images/twice.png", GREY)
    save(pair / "images/twice.tif", GREY)
    save(pair / "masks/twice.png", MASK)
    save(pair / "images/masks.png", GREY)
    save(pair / "masks/masks.png", MASK)
    save(pair / "masks/masks.bmp", MASK)
    assert faults(pair) == {
        "a": [],
        "masks": ["several_labels"],
        "no_image": ["missing_image"],
        "no_mask": ["missing_label"],
        "twice": ["duplicate_case_id"],
    }
    source = folder(pair)
    for case in source.cases():
        if case.faults:
            assert case.faults[0].file.is_file()
            with pytest.raises(DataError, match=f"case {case.case_id}") as caught:
                source.read(case)
            assert caught.value.faults == case.faults


def test_what_is_no_image_is_passed_over(pair: Path) -> None:
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "readme.txt"):
        (pair / "images" / name).write_bytes(b"x")
    assert faults(pair) == {"a": []}


def test_links_in_a_circle_end(pair: Path) -> None:
    (pair / "images/loop").symlink_to(pair / "images", target_is_directory=True)
    (pair / "images/up").symlink_to(pair, target_is_directory=True)
    (pair / "images/self.png").symlink_to(pair / "images/self.png")
    found = faults(pair, recursive=True)
    assert found == {"a": [], "self": ["missing_label"]}
    save(pair / "masks/self.png", MASK)
    source = folder(pair)
    with pytest.raises(DataError, match=r"case self: .*self\.png needs to be there"):
        source.read(source.cases()[1])


def test_a_folder_that_is_a_link_is_followed(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere / "b.png", GREY)
    (pair / "images/linked").symlink_to(elsewhere, target_is_directory=True)
    save(pair / "masks/linked/b.png", MASK)
    assert faults(pair, recursive=True) == {"a": [], "linked__b": []}


def test_ten_thousand_images_are_listed_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(10_000):
        os.close(os.open(tmp_path / "images" / f"case_{number}.png", os.O_CREAT))
    start = time.perf_counter()
    cases = folder(tmp_path, mask_folder=None).cases()
    assert time.perf_counter() - start < 10  # about one, and several where types are checked
    assert [case.case_id for case in cases] == [f"case_{number}" for number in range(10_000)]


@pytest.mark.parametrize("name", ["images", "masks"])
def test_a_missing_folder_is_told(pair: Path, name: str) -> None:
    (pair / name).rename(pair / "other")
    with pytest.raises(DataError, match=name):
        folder(pair).cases()


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    save(tmp_path / "images/sub/a.png", GREY)
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="recursive=true"):
        folder(tmp_path).cases()


def test_images_alone_have_no_annotation(pair: Path) -> None:
    assert read_one(pair, mask_folder=None).annotation is None


def test_all_faults_of_a_case_are_told_at_once(pair: Path) -> None:
    (pair / "images/a.png").write_bytes(b"")
    save(pair / "masks/a.png", np.repeat(GREY[..., None], 3, axis=-1) + np.array([0, 1, 2], np.uint8))
    with pytest.raises(DataError) as caught:
        read_one(pair)
    assert [fault.check for fault in caught.value.faults] == ["unreadable", "wrong_channels"]


def test_another_shape_of_the_mask_is_refused(pair: Path) -> None:
    save(pair / "masks/a.png", MASK[:-1])
    with pytest.raises(DataError, match=r"shape \(8, 6\).*got \(7, 6\)"):
        read_one(pair)


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """A mask whose grid is one voxel further along the first axis."""
    volume = np.stack([MASK] * 3, axis=-1)
    save(tmp_path / "images/a.nii.gz", volume)
    affine = AFFINE.copy()
    affine[0, 3] = 0.8
    save(tmp_path / "masks/a.nii.gz", volume, affine)
    return tmp_path


def test_a_mask_on_another_grid_is_an_error_a_warning_or_resampled(shifted: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_one(shifted, spatial_dims=3)
    assert [fault.check for fault in caught.value.faults] == ["affine_mismatch"]
    warned = read_one(shifted, spatial_dims=3, geometry="warn")
    assert [(fault.check, fault.severity) for fault in warned.case.faults] == [("affine_mismatch", Severity.WARNING)]
    np.testing.assert_array_equal(warned.annotation.mask[..., 0], MASK)
    resampled = read_one(shifted, spatial_dims=3, geometry="resample_label")
    np.testing.assert_array_equal(resampled.annotation.mask[1:, :, 0], MASK[:-1])
    assert not resampled.annotation.mask[0].any()
    assert read_one(shifted, spatial_dims=3, grid_tolerance_voxels=1.5).case.faults == ()


def test_a_case_that_was_read_with_a_warning_can_be_read_again(shifted: Path) -> None:
    source = folder(shifted, spatial_dims=3, geometry="warn")
    image = source.read(source.cases()[0])
    assert source.read(image.case).pixels.shape == image.pixels.shape


def test_headers_that_are_unsure_are_refused_unless_told(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        save(tmp_path / name / "a.nii.gz", MASK[..., None], None)
    with pytest.raises(DataError, match="check_headers=false") as caught:
        read_one(tmp_path)
    assert [fault.check for fault in caught.value.faults] == ["unsure_grid", "unsure_grid"]
    assert read_one(tmp_path, check_headers=False).pixels.shape == (1, *SHAPE)


def test_instances_get_the_label_of_most_of_their_voxels(pair: Path) -> None:
    ids = np.zeros(SHAPE, np.int32)
    ids[:2, :], ids[4:, :2], ids[4:, 3:] = 70_000, 5, 9
    mask = np.zeros(SHAPE, np.uint8)
    mask[:2, :], mask[4:, :2], mask[4:, 3:] = 2, 1, 1
    mask[0, 0], mask[4, 0] = 1, 0
    save(pair / "ids/a.tif", ids)
    save(pair / "masks/a.png", mask)
    annotation = read_one(pair, instance_folder="ids").annotation
    np.testing.assert_array_equal(annotation.mask, mask)
    np.testing.assert_array_equal(annotation.instances > 0, ids > 0)
    assert annotation.objects.labels.tolist() == [1, 1, 2]
    assert annotation.objects.boxes.tolist() == [[4, 0, 8, 2], [4, 3, 8, 6], [0, 0, 2, 6]]


def test_instances_alone_have_the_only_label(pair: Path) -> None:
    save(pair / "ids/a.png", MASK)
    knobs = {"mask_folder": None, "instance_folder": "ids"}
    annotation = read_one(pair, **knobs, labels={3: "cell"}).annotation
    np.testing.assert_array_equal(annotation.mask, np.where(MASK > 0, 3, 0))
    np.testing.assert_array_equal(annotation.instances, MASK)
    with pytest.raises(UsageError, match="one label"):
        folder(pair, **knobs)


def test_an_image_without_instances_has_no_object(pair: Path) -> None:
    save(pair / "ids/a.png", np.zeros(SHAPE, np.uint8))
    annotation = read_one(pair, instance_folder="ids").annotation
    assert len(annotation.objects) == 0


def test_an_instance_on_background_is_told(pair: Path) -> None:
    save(pair / "ids/a.png", np.ones(SHAPE, np.uint8))
    save(pair / "masks/a.png", np.zeros(SHAPE, np.uint8))
    with pytest.raises(DataError, match=r"case a: .*background for 1 of 1 \(id 1\)"):
        read_one(pair, instance_folder="ids")


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for name in ("malignant/1", "benign/2", "benign/2b", "benign/deep/3"):
        save(tmp_path / f"images/{name}.png", GREY)
    return tmp_path


CLASSES = {"label_from": "folder", "mask_folder": None}


def test_folders_are_classes(classes: Path) -> None:
    source = folder(classes, **CLASSES, labels=None)
    assert source.labels == {0: "benign", 1: "malignant"}
    cases = source.cases()
    assert [case.case_id for case in cases] == ["benign__2", "benign__2b", "benign__deep__3", "malignant__1"]
    assert [source.read(case).annotation.image_labels for case in cases] == [(0,), (0,), (0,), (1,)]
    assert source.read(cases[0]).annotation.mask is None


def test_classes_may_be_declared_and_others_are_told(classes: Path) -> None:
    save(classes / "images/loose.png", GREY)
    source = folder(classes, **CLASSES, labels={3: "malignant", 1: "bening"})
    assert source.labels == {1: "bening", 3: "malignant"}
    found = {case.case_id: case for case in source.cases()}
    assert source.read(found["malignant__1"]).annotation.image_labels == (3,)
    assert "did you mean bening" in str(found["benign__2"].faults[0])
    assert [fault.check for fault in found["loose"].faults] == ["unknown_label"]


def test_the_class_is_part_of_the_content_of_a_case(classes: Path) -> None:
    (case, *_) = folder(classes, **CLASSES, labels=None).cases()
    assert dict(case.facts) == {"image_labels": [0]}


@pytest.mark.parametrize(
    "knobs",
    [
        {"labels": {}},
        {"labels": None, "label_from": "folder"},
        {"labels": {70_000: "a"}},
        {"labels": {-1: "a"}},
        {"labels": {1: "a", 2: "a"}},
        {"label_from": "file"},
        {"geometry": "ignore"},
        {"grid_tolerance_voxels": -1.0},
        {"group_pattern": "a"},
        {"channels": []},
        {"spatial_dims": 4},
        {"root": None},
    ],
)
def test_an_unfit_knob_is_refused(pair: Path, knobs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"dataset|group_pattern"):
        Folder(**{"root": pair, "labels": LABELS, **knobs})


def test_a_group_is_found_in_the_name(pair: Path) -> None:
    save(pair / "images/p7_left.png", GREY)
    save(pair / "masks/p7_left.png", MASK)
    cases = folder(pair, group_pattern=r"^(p\d+)_").cases()
    assert [(case.case_id, case.group, [f.check for f in case.faults]) for case in cases] == [
        ("a", "a", ["missing_group"]),
        ("p7_left", "p7", []),
    ]


def test_the_voxels_of_a_header_are_files_of_the_case(tmp_path: Path) -> None:
    save(tmp_path / "images/a.mhd", GREY)
    save(tmp_path / "masks/a.mhd", MASK)
    (case,) = folder(tmp_path).cases()
    assert {path.name for path in case.files} == {"a.mhd", "a.raw"}
    assert len(case.files) == 4
