from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image as Picture

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Source
from medexp.data.sources.msd import MSD
from medexp.data.sources.nnunet import NnUNet

SHAPE = (6, 5, 4)
AFFINE = np.diag([0.8, 0.7, 2.5, 1.0])
NAMES = ("a_1", "b_2")
DECLARED = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "organ": 1, "lesion": 2},
    "numTraining": 2,
}


def image(channel: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(channel).integers(0, 255, shape, dtype=np.uint8)


def label(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return (np.arange(np.prod(shape)).reshape(shape) % 3).astype(np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    """A file whose array, as it is read, are these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nii.gz"):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
    elif path.name.endswith((".nrrd", ".mha", ".nhdr")):
        itk = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
        itk.SetSpacing(np.diag(AFFINE)[: values.ndim].tolist())
        SimpleITK.WriteImage(itk, str(path))
    elif path.name.endswith((".tif", ".tiff")):
        tifffile.imwrite(path, values, photometric="rgb" if values.shape[-1] == 3 else "minisblack")
    else:
        Picture.fromarray(values).save(path)


def declare(root: Path, **change: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(DECLARED | {"file_ending": ".nii.gz"} | change), encoding="utf-8")
    return root


def fill(root: Path, ending: str = ".nii.gz", shape: tuple[int, ...] = SHAPE, **change: Any) -> Path:
    for name in NAMES:
        for channel in range(2):
            save(root / f"imagesTr/{name}_{channel:04d}{ending}", image(channel, shape))
        save(root / f"labelsTr/{name}{ending}", label(shape))
    return declare(root, file_ending=ending, **change)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return fill(tmp_path / "Dataset001_Toy")


def faults(root: Path, **knobs: Any) -> dict[str, list[str]]:
    return {case.case_id: [fault.check for fault in case.faults] for case in NnUNet(root=root, **knobs).cases()}


def test_a_source_of_what_dataset_json_declares(dataset: Path) -> None:
    source = NnUNet(root=dataset)
    assert isinstance(source, Source)
    assert source.channels == ("T1", "T2")
    assert source.labels == {0: "background", 1: "organ", 2: "lesion"}
    assert (source.name, source.spatial_dims, source.public) == ("Dataset001_Toy", 3, False)
    assert (source.regions, source.ignore_index) == ({}, None)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".nhdr", ".tif", ".tiff"])
def test_volumes_of_every_format_are_read(tmp_path: Path, ending: str) -> None:
    source = NnUNet(root=fill(tmp_path, ending))
    cases = source.cases()
    assert [case.case_id for case in cases] == ["a_1", "b_2"]
    read = source.read(cases[0])
    np.testing.assert_array_equal(read.pixels, np.stack([image(0), image(1)]))
    np.testing.assert_array_equal(read.annotation.mask, label())
    assert read.geometry.spacing_mm == pytest.approx((1, 1, 1) if ".tif" in ending else (0.8, 0.7, 2.5))


@pytest.mark.parametrize("ending", [".png", ".bmp", ".tif"])
def test_pictures_of_every_format_are_read(tmp_path: Path, ending: str) -> None:
    source = NnUNet(root=fill(tmp_path, ending, (6, 5)), spatial_dims=2)
    read = source.read(source.cases()[0])
    np.testing.assert_array_equal(read.pixels, np.stack([image(0, (6, 5)), image(1, (6, 5))]))
    np.testing.assert_array_equal(read.annotation.mask, label((6, 5)))


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_one_picture_may_hold_the_colours_that_are_channels(tmp_path: Path, ending: str) -> None:
    colours = image(0, (6, 5, 3))
    save(tmp_path / f"imagesTr/a_0000{ending}", colours)
    save(tmp_path / f"labelsTr/a{ending}", label((6, 5)))
    declare(tmp_path, file_ending=ending, channel_names={"0": "R", "1": "G", "2": "B"}, numTraining=1)
    source = NnUNet(root=tmp_path, spatial_dims=2)
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels, np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize("ending", [".jpg", ".npy", ".dcm", "png", 3])
def test_another_ending_is_refused(tmp_path: Path, ending: Any) -> None:
    with pytest.raises(DataError, match="file_ending"):
        NnUNet(root=declare(tmp_path, file_ending=ending)).cases()


def test_test_images_are_not_listed(dataset: Path) -> None:
    shutil.copytree(dataset / "imagesTr", dataset / "imagesTs")
    (dataset / "imagesTs/a_1_0000.nii.gz").rename(dataset / "imagesTs/c_3_0000.nii.gz")
    assert list(faults(dataset)) == ["a_1", "b_2"]


@pytest.mark.parametrize(
    ("missing", "check"), [("imagesTr/a_1_0001.nii.gz", "missing_image"), ("labelsTr/a_1.nii.gz", "missing_label")]
)
def test_an_incomplete_case_is_listed_with_its_fault(dataset: Path, missing: str, check: str) -> None:
    (dataset / missing).unlink()
    assert faults(dataset) == {"a_1": [check], "b_2": []}
    source = NnUNet(root=dataset)
    with pytest.raises(DataError, match=rf"case a_1: .*{missing} needs to be there"):
        source.read(source.cases()[0])


def test_all_that_is_missing_is_told(dataset: Path) -> None:
    for path in dataset.glob("*/a_1*"):
        if "0000" not in path.name:
            path.unlink()
    assert faults(dataset)["a_1"] == ["missing_image", "missing_label"]


def test_the_ignore_label_is_declared_and_known(dataset: Path) -> None:
    declare(dataset, labels={"background": 0, "organ": 1, "ignore": 2})
    source = NnUNet(root=dataset)
    assert source.ignore_index == 2
    assert source.labels == {0: "background", 1: "organ", 2: "ignore"}
    np.testing.assert_array_equal(source.read(source.cases()[0]).annotation.mask, label())


def test_the_ignore_label_is_no_region(dataset: Path) -> None:
    declare(dataset, labels={"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}, regions_class_order=[1, 2])
    source = NnUNet(root=dataset)
    assert source.regions == {"whole": (1, 2), "core": (2,)}
    assert source.labels == {0: "background", 1: "label_1", 2: "core", 3: "ignore"}
    assert source.ignore_index == 3


@pytest.mark.parametrize("ids", [0, [2, 3]])
def test_an_ignore_label_that_is_none_is_refused(dataset: Path, ids: Any) -> None:
    declare(dataset, labels={"background": 0, "organ": 1, "ignore": ids} if ids else {"organ": 1, "ignore": 0})
    with pytest.raises(DataError, match="'ignore'"):
        NnUNet(root=dataset)


def test_the_msd_source_names_the_one_that_reads_an_ignore_label(dataset: Path) -> None:
    declare(dataset, labels={"background": 0, "organ": 1, "ignore": 2})
    with pytest.raises(DataError, match="dataset=nnunet"):
        MSD(root=dataset)


SPLITS = [{"train": ["b_2"], "val": ["a_1"]}, {"train": ["a_1"], "val": ["b_2"]}]


def write_splits(path: Path, splits: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(splits), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("place", ["below the root", "elsewhere"])
def test_splits_give_each_case_the_fold_that_validates_it(dataset: Path, place: str) -> None:
    folder = dataset if place == "below the root" else dataset.parent / "nnUNet_preprocessed"
    path = write_splits(folder / "splits_final.json", SPLITS)
    splits = "splits_final.json" if place == "below the root" else path
    cases = NnUNet(root=dataset, splits=splits).cases()
    assert {case.case_id: case.fold for case in cases} == {"a_1": 0, "b_2": 1}
    assert {case.fold for case in NnUNet(root=dataset).cases()} == {None}


def test_what_does_not_fit_in_the_splits_is_told(dataset: Path) -> None:
    splits = [*SPLITS, {"train": [], "val": ["a_1", "gone"]}]
    write_splits(dataset / "s.json", splits)
    assert faults(dataset, splits="s.json") == {"a_1": ["several_folds"], "b_2": [], "gone": ["missing_image"]}


def test_a_case_that_no_fold_validates_has_none(dataset: Path) -> None:
    write_splits(dataset / "s.json", [{"train": ["b_2"], "val": ["a_1"]}])
    assert [case.fold for case in NnUNet(root=dataset, splits="s.json").cases()] == [0, None]


@pytest.mark.parametrize("splits", [[], {}, [{"train": []}], [{"val": "a_1"}], [{"val": [1]}], [3], "x"])
def test_splits_that_are_none_are_refused(dataset: Path, splits: Any) -> None:
    write_splits(dataset / "s.json", splits)
    with pytest.raises(DataError, match=r"s\.json needs a list of folds"):
        NnUNet(root=dataset, splits="s.json").cases()


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"[" * 100_000])
def test_splits_that_cannot_be_read_are_refused(dataset: Path, content: bytes | None) -> None:
    if content is not None:
        (dataset / "s.json").write_bytes(content)
    with pytest.raises(DataError, match=r"s\.json needs a list of folds"):
        NnUNet(root=dataset, splits="s.json").cases()


def test_a_tiff_stack_has_the_spacing_of_the_file_beside_it(tmp_path: Path) -> None:
    root = fill(tmp_path, ".tif")
    (root / "imagesTr/a_1.json").write_text('{"spacing": [7.6, 0.5, 1]}')
    source = NnUNet(root=root, spacing_mm=[3.0, 3.0, 3.0])
    first, second = (source.read(case).geometry for case in source.cases())
    assert (first.spacing_mm, second.spacing_mm) == ((7.6, 0.5, 1.0), (3.0, 3.0, 3.0))
    assert first.unit == second.unit == "mm"


@pytest.mark.parametrize("content", ["", "[]", '{"spacing": [1, 2]}', '{"spacing": [1, 2, 0]}', '{"spacing": "1 2 3"}'])
def test_a_spacing_that_is_none_is_told(tmp_path: Path, content: str) -> None:
    root = fill(tmp_path, ".tif")
    (root / "imagesTr/a_1.json").write_text(content)
    assert faults(root) == {"a_1": ["unfit_spacing"], "b_2": []}


def test_a_label_on_another_grid_is_refused_unless_told(dataset: Path) -> None:
    affine = AFFINE.copy()
    affine[0, 3] = 5
    nib.save(nib.Nifti1Image(label(), affine), dataset / "labelsTr/a_1.nii.gz")
    source = NnUNet(root=dataset)
    with pytest.raises(DataError, match=r"case a_1.*affine"):
        source.read(source.cases()[0])
    read = NnUNet(root=dataset, geometry="warn").read(source.cases()[0])
    assert [fault.check for fault in read.case.faults] == ["affine_mismatch"]


def test_channels_on_different_grids_are_refused(dataset: Path) -> None:
    affine = AFFINE.copy()
    affine[2, 2] = 3
    nib.save(nib.Nifti1Image(image(1), affine), dataset / "imagesTr/a_1_0001.nii.gz")
    source = NnUNet(root=dataset, geometry="resample_label")
    with pytest.raises(DataError, match=r"a_1_0001.*spacing.*one grid"):
        source.read(source.cases()[0])


def test_all_damaged_channels_are_told(dataset: Path) -> None:
    for channel in range(2):
        (dataset / f"imagesTr/a_1_{channel:04d}.nii.gz").write_bytes(b"<html>")
    source = NnUNet(root=dataset)
    with pytest.raises(DataError) as caught:
        source.read(source.cases()[0])
    assert [fault.check for fault in caught.value.faults] == ["unreadable", "unreadable"]


def test_a_group_is_found_in_the_name(dataset: Path) -> None:
    assert [case.group for case in NnUNet(root=dataset, group_pattern=r"^(\w)_").cases()] == ["a", "b"]
    assert faults(dataset, group_pattern=r"^(a)_") == {"a_1": [], "b_2": ["missing_group"]}


@pytest.mark.parametrize("knobs", [{"spatial_dims": 1}, {"geometry": "off"}, {"spacing_mm": [1.0]}, {"root": None}])
def test_an_unfit_knob_is_refused(dataset: Path, knobs: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"dataset\."):
        NnUNet(**{"root": dataset, **knobs})


@pytest.mark.real_data
def test_real_hippocampus_is_the_same_as_by_the_msd_source(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    original = shared_data("msd_task04_hippocampus")
    declared = json.loads((original / "dataset.json").read_text())
    names = [Path(item["label"]).name for item in declared["training"][:5]]
    for name in names:
        for folder, new in (("imagesTr", name.replace(".nii.gz", "_0000.nii.gz")), ("labelsTr", name)):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / new).symlink_to(original / folder / name)
    labels = {name: int(number) for number, name in declared["labels"].items()}
    declare(tmp_path, channel_names={"0": "MRI"}, labels=labels, numTraining=5)
    source, msd = NnUNet(root=tmp_path), MSD(root=original)
    expected = {case.case_id: case for case in msd.cases()}
    for case in source.cases():
        ours, theirs = source.read(case), msd.read(expected[case.case_id])
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
        np.testing.assert_array_equal(ours.annotation.mask, theirs.annotation.mask)
        np.testing.assert_array_equal(ours.geometry.affine, theirs.geometry.affine)
