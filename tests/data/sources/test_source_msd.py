from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.sources.msd import MSD

SHAPE = (6, 5, 4)
AFFINE = np.array([[0.8, 0, 0, -10], [0, 0.7, 0, 20], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
DECATHLON = {
    "name": "Toy organ",
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "organ", "2": "lesion"},
    "numTraining": 2,
}
NNUNET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "organ": 1, "lesion": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def save(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE, codes: tuple[int, int] = (1, 1)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nifti = nib.Nifti1Image(voxels, affine)
    nifti.set_sform(affine, codes[0])
    nifti.set_qform(affine, codes[1])
    nib.save(nifti, path)


def image(*channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*SHAPE, *channels)).astype(np.float32)


def label(dtype: type = np.uint8) -> np.ndarray:
    return (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3).astype(dtype)


def declare(root: Path, manifest: dict[str, Any]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(manifest), encoding="utf-8")
    return root


def pair(name: str) -> dict[str, str]:
    return {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}


@pytest.fixture
def decathlon(tmp_path: Path) -> Path:
    for name in ("toy_001", "toy_002"):
        save(tmp_path / f"imagesTr/{name}.nii.gz", image())
        save(tmp_path / f"labelsTr/{name}.nii.gz", label())
    return declare(tmp_path, DECATHLON | {"training": [pair("toy_001"), pair("toy_002")]})


@pytest.fixture
def nnunet(tmp_path: Path) -> Path:
    for name in ("a_1", "b_2"):
        for channel in range(2):
            save(tmp_path / f"imagesTr/{name}_{channel:04d}.nii.gz", image(seed=channel))
        save(tmp_path / f"labelsTr/{name}.nii.gz", label())
    return declare(tmp_path, NNUNET)


def read_first(root: Path, **knobs: Any) -> Any:
    source = MSD(root=root, **knobs)
    return source.read(source.cases()[0])


def refused(root: Path, *parts: str, **knobs: Any) -> str:
    """The message with which reading the first case fails; it names the case and each of the parts."""
    with pytest.raises(DataError) as caught:
        read_first(root, **knobs)
    for part in ("case toy_001", *parts):
        assert part in str(caught.value)
    return str(caught.value)


def test_decathlon_declares_channels_labels_and_cases(decathlon: Path) -> None:
    source = MSD(root=decathlon)
    assert source.channels == ("MRI",)
    assert source.labels == {0: "background", 1: "organ", 2: "lesion"}
    assert (source.name, source.spatial_dims, source.public) == ("Toy_organ", 3, False)
    assert [case.case_id for case in source.cases()] == ["toy_001", "toy_002"]
    assert [case.group for case in source.cases()] == ["toy_001", "toy_002"]


def test_voxels_labels_and_spacing_are_those_of_the_files(decathlon: Path) -> None:
    read = read_first(decathlon)
    np.testing.assert_array_equal(read.pixels, image()[None])
    assert read.pixels.dtype == np.float32
    np.testing.assert_array_equal(read.annotation.mask, label())
    assert read.geometry.spacing_mm == pytest.approx((0.8, 0.7, 2.5), rel=1e-6)
    np.testing.assert_allclose(read.geometry.affine, AFFINE, rtol=1e-6)


def test_channels_along_the_last_axis_come_first(decathlon: Path) -> None:
    declare(
        decathlon, DECATHLON | {"modality": {"1": "ADC", "0": "T2"}, "training": [pair("toy_001")], "numTraining": 1}
    )
    save(decathlon / "imagesTr/toy_001.nii.gz", image(2))
    source = MSD(root=decathlon)
    assert source.channels == ("T2", "ADC")
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels, np.moveaxis(image(2), -1, 0))


def test_a_scaled_header_is_applied(decathlon: Path) -> None:
    stored = nib.Nifti1Image(np.full(SHAPE, 100, np.int16), AFFINE)
    stored.header.set_slope_inter(2, -1024)
    stored.set_sform(AFFINE, 1)
    path = decathlon / "imagesTr/toy_001.nii"
    nib.save(stored, path)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([2, -1024], "<f4").tobytes()  # scl_slope and scl_inter, which nibabel resets on saving
    raw[352:] = np.full(SHAPE, 100, "<i2").tobytes()
    path.write_bytes(raw)
    declare(
        decathlon, DECATHLON | {"numTraining": 1, "training": [pair("toy_001") | {"image": "imagesTr/toy_001.nii"}]}
    )
    assert np.unique(read_first(decathlon).pixels).tolist() == [100 * 2 - 1024]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint16, np.int32])
def test_labels_of_any_number_type_become_integers(decathlon: Path, dtype: type) -> None:
    save(decathlon / "labelsTr/toy_001.nii.gz", label(dtype))
    mask = read_first(decathlon).annotation.mask
    assert np.issubdtype(mask.dtype, np.integer)
    np.testing.assert_array_equal(mask, label())


def test_a_case_without_reference_is_read_without_annotation(decathlon: Path) -> None:
    case = Case(case_id="new", group="new", images=(decathlon / "imagesTr/toy_001.nii.gz",))
    assert MSD(root=decathlon).read(case).annotation is None


def test_nnunet_finds_its_cases_and_stacks_their_channels(nnunet: Path) -> None:
    source = MSD(root=nnunet)
    assert source.channels == ("T1", "T2")
    assert source.labels == {0: "background", 1: "organ", 2: "lesion"}
    assert [case.case_id for case in source.cases()] == ["a_1", "b_2"]
    read = source.read(source.cases()[1])
    np.testing.assert_array_equal(read.pixels, np.stack([image(seed=0), image(seed=1)]))
    np.testing.assert_array_equal(read.annotation.mask, label())


def test_nnunet_regions_keep_the_ids_of_the_mask(nnunet: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
    source = MSD(root=declare(nnunet, NNUNET | {"labels": labels, "regions_class_order": [1, 2, 3]}))
    assert source.labels == {0: "background", 1: "label_1", 2: "label_2", 3: "enhancing"}
    assert source.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def test_nnunet_1_lists_a_name_for_one_file_per_channel(nnunet: Path) -> None:
    manifest = DECATHLON | {"modality": {"0": "T1", "1": "T2"}, "training": [pair("a_1"), pair("b_2")]}
    source = MSD(root=declare(nnunet, manifest))
    assert [case.case_id for case in source.cases()] == ["a_1", "b_2"]
    assert source.read(source.cases()[0]).pixels.shape == (2, *SHAPE)


def test_nnunet_may_name_the_files_of_each_case(nnunet: Path) -> None:
    files = {"images": [f"imagesTr/a_1_{n:04d}.nii.gz" for n in range(2)], "label": "labelsTr/a_1.nii.gz"}
    source = MSD(root=declare(nnunet, NNUNET | {"numTraining": 1, "dataset": {"patient": files}}))
    assert [case.case_id for case in source.cases()] == ["patient"]
    assert source.read(source.cases()[0]).pixels.shape == (2, *SHAPE)


@pytest.mark.parametrize("missing", ["imagesTr/a_1_0001.nii.gz", "labelsTr/a_1.nii.gz", "imagesTr/a_1_000?.nii.gz"])
def test_nnunet_lists_an_incomplete_case_and_reading_it_names_the_file(nnunet: Path, missing: str) -> None:
    for path in nnunet.glob(missing):
        path.unlink()
    source = MSD(root=nnunet)
    broken, whole = source.cases()
    with pytest.raises(DataError, match=r"case a_1.*is missing"):
        source.read(broken)
    assert source.read(whole).pixels.shape == (2, *SHAPE)


def test_nnunet_does_not_take_hidden_files_of_a_mac_for_cases(nnunet: Path) -> None:
    (nnunet / "imagesTr/._a_1_0000.nii.gz").write_bytes(b"x")
    assert len(MSD(root=nnunet).cases()) == 2


@pytest.mark.parametrize("name", ["c_3.nii.gz", "a_1_0002.nii.gz", "c_001.nii.gz"])
def test_nnunet_refuses_a_name_without_a_declared_channel(nnunet: Path, name: str) -> None:
    save(nnunet / "imagesTr" / name, image())
    with pytest.raises(DataError, match=name):
        MSD(root=nnunet).cases()


def test_names_with_spaces_umlauts_and_capital_endings_are_read(tmp_path: Path) -> None:
    save(tmp_path / "imagesTr/Müller 1_0000.nii.gz", image())
    (tmp_path / "imagesTr/Müller 1_0000.nii.gz").rename(tmp_path / "imagesTr/Müller 1_0000.NII.GZ")
    save(tmp_path / "labelsTr/Müller 1.nii.gz", label())
    declare(tmp_path, NNUNET | {"channel_names": {"0": "CT"}, "numTraining": 1})
    source = MSD(root=tmp_path)
    assert [case.case_id for case in source.cases()] == ["Müller 1"]
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels[0], image())


def test_group_pattern_finds_the_patient(decathlon: Path) -> None:
    assert [case.group for case in MSD(root=decathlon, group_pattern=r"^(toy)_\d+$").cases()] == ["toy", "toy"]


def test_group_pattern_that_misses_a_case_is_told_of_the_case(decathlon: Path) -> None:
    refused(decathlon, "group_pattern", group_pattern=r"patient(\d+)")


@pytest.mark.parametrize("pattern", ["toy", "(a)(b)", "(toy"])
def test_group_pattern_needs_to_be_a_pattern_with_one_group(decathlon: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="group_pattern"):
        MSD(root=decathlon, group_pattern=pattern)


OUTSIDE = ["../x.nii.gz", "/etc/x.nii.gz", "imagesTr/../../x.nii.gz", "..\\x.nii.gz", "C:\\x.nii.gz", "a\0.nii.gz", 3]


@pytest.mark.parametrize(
    ("role", "path"),
    [("image", path) for path in [*OUTSIDE, "", None]] + [("label", path) for path in OUTSIDE],
)
def test_a_path_that_leaves_the_folder_is_refused(decathlon: Path, role: str, path: Any) -> None:
    declare(decathlon, DECATHLON | {"numTraining": 1, "training": [pair("toy_001") | {role: path}]})
    with pytest.raises(DataError, match="paths that stay in"):
        MSD(root=decathlon).cases()


@pytest.mark.parametrize("case_id", ["../a", "a/b", "a\\b", ".hidden"])
def test_a_case_id_that_is_no_file_name_is_refused(nnunet: Path, case_id: str) -> None:
    files = {"images": ["imagesTr/a_1_0000.nii.gz", "imagesTr/a_1_0001.nii.gz"], "label": "labelsTr/a_1.nii.gz"}
    with pytest.raises(DataError, match="case names that are file names"):
        MSD(root=declare(nnunet, NNUNET | {"numTraining": 1, "dataset": {case_id: files}})).cases()


def test_a_path_that_leaves_the_folder_is_refused_in_nnunets_list_too(nnunet: Path) -> None:
    files = {"images": ["../a.nii.gz", "../b.nii.gz"], "label": "labelsTr/a_1.nii.gz"}
    with pytest.raises(DataError, match="paths that stay in"):
        MSD(root=declare(nnunet, NNUNET | {"dataset": {"a": files}})).cases()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": [pair("toy_001"), pair("toy_001")]}, "each case once, got twice: toy_001"),
        ({"numTraining": 3}, "numTraining 3, got 2"),
        ({"training": []}, "list of cases"),
        ({"training": ["imagesTr/toy_001.nii.gz", "x"]}, "'image'"),
        ({"training": [{"image": "imagesTr/toy_001.png"}]}, "files named"),
        ({"training": [pair("toy_001") | {"label": "labelsTr/toy_001.mgz"}]}, "files named"),
        ({"modality": {"1": "MRI"}}, "channels as"),
        ({"modality": None}, "channels as"),
        ({"labels": None}, "under 'labels'"),
        ({"labels": {"1": "organ"}}, "id 0"),
        ({"labels": {"0": "background", "1": "organ", "2": "organ"}}, "one name per label id"),
        ({"labels": {"0": "background", "one": "organ"}}, "whole numbers"),
        ({"labels": {"background": 0, "organ": 1.5}}, "whole numbers"),
        ({"labels": {"background": 0, "organ": 1, "kidney": 1}}, "one name per label id"),
        ({"labels": {"background": 0, "organ": 1, "ignore": 2}}, "'ignore'"),
    ],
)
def test_a_malformed_manifest_is_refused(decathlon: Path, change: dict[str, Any], message: str) -> None:
    manifest = json.loads((decathlon / "dataset.json").read_text()) | change
    with pytest.raises(DataError, match=message):
        MSD(root=declare(decathlon, manifest)).cases()


@pytest.mark.parametrize("content", [b"", b"<html>", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset\.json"):
        MSD(root=tmp_path)


def test_a_byte_order_mark_is_no_obstacle(decathlon: Path) -> None:
    path = decathlon / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(MSD(root=decathlon).cases()) == 2


def test_the_folder_above_the_dataset_is_refused_with_a_hint(tmp_path: Path) -> None:
    declare(tmp_path / "Task99_Toy", DECATHLON)
    with pytest.raises(DataError, match="there is one in Task99_Toy"):
        MSD(root=tmp_path)


def test_an_unset_root_is_named() -> None:
    with pytest.raises(UsageError, match=r"dataset\.root"):
        MSD(root=None)


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("damage", ["missing", "empty", "html", "truncated", "loop"])
def test_a_missing_or_damaged_file_is_named(decathlon: Path, folder: str, damage: str) -> None:
    path = decathlon / folder / "toy_001.nii.gz"
    content = path.read_bytes()
    path.unlink()
    if damage == "loop":
        path.symlink_to(path)
    elif damage != "missing":
        path.write_bytes({"empty": b"", "html": b"<!DOCTYPE html>" * 40, "truncated": content[:-40]}[damage])
    refused(decathlon, str(path), "is missing" if damage in ("missing", "loop") else "reading it failed")


def test_a_truncated_uncompressed_file_is_named(decathlon: Path) -> None:
    path = decathlon / "imagesTr/toy_001.nii"
    save(path, image())
    path.write_bytes(path.read_bytes()[:-40])
    declare(
        decathlon, DECATHLON | {"numTraining": 1, "training": [pair("toy_001") | {"image": "imagesTr/toy_001.nii"}]}
    )
    refused(decathlon, "toy_001.nii", "reading it failed")


def test_a_label_that_the_list_omits_is_looked_up_by_the_images_name(decathlon: Path) -> None:
    declare(decathlon, DECATHLON | {"numTraining": 1, "training": [{"image": "./imagesTr/toy_001.nii.gz"}]})
    assert read_first(decathlon).annotation is not None
    (decathlon / "labelsTr/toy_001.nii.gz").unlink()
    refused(decathlon, "label", "is missing")


def test_another_shape_of_the_label_is_refused(decathlon: Path) -> None:
    save(decathlon / "labelsTr/toy_001.nii.gz", label()[:, :, :-1])
    refused(decathlon, "shape (6, 5, 4)", "got (6, 5, 3)")


@pytest.mark.parametrize("voxels", [0.04, -0.04])
def test_grids_within_the_tolerance_are_accepted(decathlon: Path, voxels: float) -> None:
    save(decathlon / "labelsTr/toy_001.nii.gz", label(), shifted(voxels))
    assert read_first(decathlon).annotation is not None


def shifted(voxels: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[2, 3] += voxels * 2.5
    return affine


def turned() -> np.ndarray:
    affine = AFFINE.copy()
    affine[:, 0] *= -1
    return affine


def stretched() -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 0] *= 1.05
    return affine


@pytest.mark.parametrize("affine", [shifted(0.1), turned(), stretched()], ids=["shifted", "flipped", "other spacing"])
def test_grids_apart_are_refused_unless_the_tolerance_allows_it(decathlon: Path, affine: np.ndarray) -> None:
    save(decathlon / "labelsTr/toy_001.nii.gz", label(), affine)
    refused(decathlon, "labelsTr", "voxels a", "needs the image's")
    assert read_first(decathlon, grid_tolerance_voxels=100.0).annotation is not None


def test_a_label_on_another_grid_is_taken_as_the_user_says(decathlon: Path) -> None:
    save(decathlon / "labelsTr/toy_001.nii.gz", label()[:, :, 1:], shifted(1))
    refused(decathlon, "shape (6, 5, 4)", geometry="warn")
    read = read_first(decathlon, geometry="resample_label")
    np.testing.assert_array_equal(read.annotation.mask[:, :, 1:], label()[:, :, 1:])
    assert not read.annotation.mask[:, :, 0].any()
    assert {fault.check for fault in read.case.faults} == {"shape_mismatch", "affine_mismatch"}

    save(decathlon / "labelsTr/toy_001.nii.gz", label(), shifted(1))
    read = read_first(decathlon, geometry="warn")
    np.testing.assert_array_equal(read.annotation.mask, label())
    assert [fault.severity for fault in read.case.faults] == ["warning"]


def test_channels_on_different_grids_are_refused(nnunet: Path) -> None:
    save(nnunet / "imagesTr/a_1_0001.nii.gz", image(), shifted(1))
    with pytest.raises(DataError, match=r"case a_1: .*a_1_0001.*bring all channels onto one grid"):
        read_first(nnunet)


def test_labels_between_whole_numbers_are_refused(decathlon: Path) -> None:
    voxels = label(np.float32)
    voxels[0, 0, :3] = [0.5, 1.25, np.nan]
    save(decathlon / "labelsTr/toy_001.nii.gz", voxels)
    refused(decathlon, "whole numbers", "0.5, 1.25, nan", "3 voxels", "nearest neighbour")


@pytest.mark.parametrize("value", [3, -1, 70_000])
def test_an_undeclared_label_is_refused(decathlon: Path, value: int) -> None:
    voxels = label(np.int32)
    voxels[0, 0, 0] = value
    save(decathlon / "labelsTr/toy_001.nii.gz", voxels)
    refused(decathlon, "[0, 1, 2]", f"got also {value} (1 voxels)", "declare")


def test_a_mask_saved_as_0_and_255_is_recognised(decathlon: Path) -> None:
    save(decathlon / "labelsTr/toy_001.nii.gz", (label() > 0).astype(np.uint8) * 255)
    refused(decathlon, "255", "0 and 1")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39], ids=["nan", "inf", "beyond float32"])
def test_a_voxel_that_is_not_finite_is_refused_with_its_place(decathlon: Path, value: float) -> None:
    voxels = image().astype(np.float64)
    voxels[1, 2, 3] = value
    save(decathlon / "imagesTr/toy_001.nii.gz", voxels)
    refused(decathlon, "imagesTr", "1 of 120", "(1, 2, 3)")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 2), (6, 5, 4, 1, 2)])
def test_another_number_of_axes_or_channels_is_refused(decathlon: Path, shape: tuple[int, ...]) -> None:
    save(decathlon / "imagesTr/toy_001.nii.gz", np.zeros(shape, np.float32))
    refused(decathlon, "needs shape (x, y, z)", f"got {shape}")


def test_a_last_axis_of_one_is_no_channel(decathlon: Path) -> None:
    for folder, voxels in (("imagesTr", image()), ("labelsTr", label())):
        save(decathlon / folder / "toy_001.nii.gz", voxels[..., None])
    np.testing.assert_array_equal(read_first(decathlon).pixels[0], image())


def test_a_colour_image_is_refused(decathlon: Path) -> None:
    colour = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    save(decathlon / "imagesTr/toy_001.nii.gz", colour)
    refused(decathlon, "colour")


@pytest.mark.parametrize("codes", [(0, 0), (1, 1)], ids=["both unset", "disagree"])
def test_a_header_unsure_of_its_grid_is_refused_unless_told(decathlon: Path, codes: tuple[int, int]) -> None:
    for folder, voxels in (("imagesTr", image()), ("labelsTr", label())):
        nifti = nib.Nifti1Image(voxels, None)
        nifti.set_sform(AFFINE, codes[0])
        nifti.set_qform(shifted(1), codes[1])
        nib.save(nifti, decathlon / folder / "toy_001.nii.gz")
    refused(decathlon, "form", "check_headers=false")
    assert read_first(decathlon, check_headers=False).geometry.spacing_mm == pytest.approx((0.8, 0.7, 2.5), rel=1e-5)


def test_only_one_of_sform_and_qform_is_enough(decathlon: Path) -> None:
    save(decathlon / "imagesTr/toy_001.nii.gz", image(), codes=(1, 0))
    save(decathlon / "labelsTr/toy_001.nii.gz", label(), codes=(0, 1))
    np.testing.assert_allclose(read_first(decathlon).geometry.affine, AFFINE, rtol=1e-5)


def test_a_singular_affine_is_refused(decathlon: Path) -> None:
    flat = AFFINE.copy()
    flat[2, 2] = 0
    nifti = nib.Nifti1Image(image(), None)
    nifti.set_sform(flat, 1)
    nib.save(nifti, decathlon / "imagesTr/toy_001.nii.gz")
    refused(decathlon, "imagesTr", "singular")


@pytest.mark.parametrize(("unit", "millimetres"), [("micron", 0.001), ("meter", 1000.0), ("mm", 1.0)])
def test_spacing_is_in_millimetres_whatever_the_headers_unit(decathlon: Path, unit: str, millimetres: float) -> None:
    scale = np.diag([1 / millimetres] * 3 + [1])
    for folder, voxels in (("imagesTr", image()), ("labelsTr", label())):
        nifti = nib.Nifti1Image(voxels, scale @ AFFINE)
        nifti.header.set_xyzt_units(unit)
        nib.save(nifti, decathlon / folder / "toy_001.nii.gz")
    assert read_first(decathlon).geometry.spacing_mm == pytest.approx((0.8, 0.7, 2.5), rel=1e-4)


@pytest.mark.real_data
def test_real_hippocampus_is_whole(shared_data: Callable[[str], Path]) -> None:
    source = MSD(root=shared_data("msd_task04_hippocampus"))
    cases = source.cases()
    assert len({case.case_id for case in cases}) == 260
    assert source.channels == ("MRI",)
    assert source.labels == {0: "background", 1: "Anterior", 2: "Posterior"}
    shapes = []
    for case in cases:
        read = source.read(case)
        assert np.unique(read.annotation.mask).tolist() == [0, 1, 2]
        assert read.geometry.spacing_mm == (1.0, 1.0, 1.0)
        shapes.append(read.geometry.shape)
    assert np.median(shapes, axis=0).tolist() == [35, 50, 36]
