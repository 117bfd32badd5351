from __future__ import annotations

import multiprocessing
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case, Image
from medexp.data.sources.medmnist import MedMNIST

SIZES = {"train": 12, "val": 3, "test": 4}


def images(part: str, *shape: int) -> np.ndarray:
    seed = list(SIZES).index(part)
    return np.random.default_rng(seed).integers(0, 256, (SIZES[part], *shape), dtype=np.uint8)


def write(root: Path, *shape: int, labels: Callable[[int], Any] | None = None, save: Any = np.savez_compressed) -> Path:
    """A file of the official layout whose images have a shape; labels count from 0 in turn unless given."""
    arrays: dict[str, Any] = {}
    for part, n in SIZES.items():
        arrays[f"{part}_images"] = images(part, *shape)
        arrays[f"{part}_labels"] = (np.arange(n) % 3)[:, None].astype(np.uint8) if labels is None else labels(n)
    save(root / "toymnist.npz", **arrays)
    return root


def source_of(root: Path, **knobs: Any) -> MedMNIST:
    return MedMNIST(root=root, cache_dir=root / "cache", **knobs)


def read_all(source: MedMNIST) -> dict[str, Image]:
    return {case.case_id: source.read(case) for case in source.cases()}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("shape", "knobs", "channels"),
    [((9, 8), {}, 1), ((9, 8, 3), {}, 3), ((7, 6, 5), {"spatial_dims": 3}, 1), ((7, 6, 5, 3), {"spatial_dims": 3}, 3)],
)
def test_images_are_those_of_the_file(
    tmp_path: Path, save: Any, shape: tuple[int, ...], knobs: dict[str, Any], channels: int
) -> None:
    source = source_of(write(tmp_path, *shape, save=save), **knobs)
    assert len(source.channels) == channels
    read = read_all(source)
    for part, n in SIZES.items():
        for index in range(n):
            image = read[f"{part}_{index:02d}" if n > 9 else f"{part}_{index}"]
            whole = images(part, *shape)[index]
            expected = np.moveaxis(whole, -1, 0) if channels == 3 else whole[None]
            np.testing.assert_array_equal(image.pixels, expected)
            assert image.pixels.dtype == np.float32
            assert (image.geometry.shape, image.geometry.unit) == (expected.shape[1:], "px")


def test_the_parts_of_the_file_are_the_split(tmp_path: Path) -> None:
    cases = source_of(write(tmp_path, 9, 8)).cases()
    assert Counter(case.split for case in cases) == SIZES
    assert len({case.case_id for case in cases}) == len({case.group for case in cases}) == sum(SIZES.values())


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_labels_may_have_a_column_or_none(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    source = source_of(write(tmp_path, 9, 8, labels=lambda n: (np.arange(n) % 3).reshape(n, *shape).astype(dtype)))
    assert source.labels == {0: "class_0", 1: "class_1", 2: "class_2"}
    assert [source.read(case).annotation.image_labels for case in source.cases()][:5] == [(0,), (1,), (2,), (0,), (1,)]


def test_columns_are_labels_that_may_hold_together(tmp_path: Path) -> None:
    rows = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1]], np.uint8)
    source = source_of(write(tmp_path, 9, 8, labels=lambda n: np.resize(rows, (n, 3))), class_names=["a", "b", "c"])
    assert source.labels == {0: "none", 1: "a", 2: "b", 3: "c"}
    assert [source.read(case).annotation.image_labels for case in source.cases()][:4] == [(), (1, 3), (2,), (1, 2, 3)]


def test_names_are_given_in_the_order_of_the_labels(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8), class_names=["benign", "malignant", "normal"])
    assert source.labels == {0: "benign", 1: "malignant", 2: "normal"}


def faults_of(cases: list[Case]) -> dict[str, list[str]]:
    return {case.case_id: [fault.check for fault in case.faults] for case in cases if case.faults}


def test_a_label_without_name_is_a_fault_of_its_case(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8), class_names=["benign", "malignant"])
    found = faults_of(source.cases())
    assert found == {f"{part}_2": ["unknown_label"] for part in ("val", "test")} | {
        f"train_{n:02d}": ["unknown_label"] for n in (2, 5, 8, 11)
    }
    with pytest.raises(DataError, match=r"case test_2: .*a label from 0 to 1, got 2"):
        source.read(next(case for case in source.cases() if case.case_id == "test_2"))


@pytest.mark.parametrize("wrong", [[-1.0], [0.5], [np.nan], [1e9]])
def test_a_label_that_is_no_class_is_a_fault_of_its_case(tmp_path: Path, wrong: list[float]) -> None:
    source = source_of(write(tmp_path, 9, 8, labels=lambda n: np.array([wrong, *[[1.0]] * (n - 1)])))
    assert faults_of(source.cases()) == {
        f"{part}_{0:0{w}d}": ["unknown_label"] for part, w in (("train", 2), ("val", 1), ("test", 1))
    }


def test_columns_of_other_values_than_0_and_1_are_faults(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8, labels=lambda n: np.array([[0, 2], *[[0, 1]] * (n - 1)])))
    assert len(faults_of(source.cases())) == 3


def test_a_part_without_labels_is_listed_with_faults(tmp_path: Path) -> None:
    arrays = {"train_images": images("train", 9, 8), "train_labels": np.zeros(12), "test_images": images("test", 9, 8)}
    np.savez(tmp_path / "toymnist.npz", **arrays)
    assert faults_of(source_of(tmp_path).cases()) == {f"test_{n}": ["missing_label"] for n in range(4)}


def test_a_case_has_no_file_and_its_facts_change_with_images_and_labels(tmp_path: Path) -> None:
    first = source_of(write(tmp_path, 9, 8)).cases()[0]
    assert first.files == ()
    again = source_of(write(tmp_path, 9, 8, save=np.savez)).cases()[0]
    assert again.facts == first.facts
    other_label = source_of(write(tmp_path, 9, 8, labels=lambda n: np.ones(n))).cases()[0]
    changed = images("train", 9, 8)
    changed[3, 0, 0] ^= 1
    np.savez(tmp_path / "toymnist.npz", train_images=changed, train_labels=np.zeros(12))
    other_images = source_of(tmp_path).cases()[0]
    assert first.facts != other_label.facts != other_images.facts != first.facts


def test_images_are_unpacked_once_whoever_reads_them(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8))
    cases = source.cases()
    source.read(cases[0])
    (unpacked,) = (tmp_path / "cache/unpacked").glob("*.npy")
    before = unpacked.stat().st_mtime_ns
    read = pickle.loads(pickle.dumps(source)).read(cases[5])
    np.testing.assert_array_equal(read.pixels[0], images("train", 9, 8)[5])
    assert unpacked.stat().st_mtime_ns == before
    assert {path.name for path in unpacked.parent.iterdir() if path.suffix != ".lock"} == {unpacked.name}


def test_another_file_of_the_same_name_is_unpacked_anew(tmp_path: Path) -> None:
    source_of(write(tmp_path, 9, 8)).read(source_of(tmp_path).cases()[0])
    changed = 255 - images("train", 9, 8)
    np.savez_compressed(tmp_path / "toymnist.npz", train_images=changed, train_labels=np.zeros(12))
    source = source_of(tmp_path)
    np.testing.assert_array_equal(source.read(source.cases()[0]).pixels[0], changed[0])


def _read_one(source: MedMNIST, case: Case) -> np.ndarray:
    return source.read(case).pixels


def test_several_processes_may_read_at_once(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8))
    cases = source.cases()[:4]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        read = pool.starmap(_read_one, [(source, case) for case in cases])
    np.testing.assert_array_equal(np.stack(read)[:, 0], images("train", 9, 8)[:4])


def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8))
    case = source.cases()[0]
    source.read(case)
    (unpacked,) = (tmp_path / "cache/unpacked").glob("*.npy")
    unpacked.write_bytes(unpacked.read_bytes()[:100])
    with pytest.raises(DataError, match="delete it") as caught:
        source.read(case)
    assert caught.value.faults[0].file == unpacked


def test_a_cache_that_cannot_be_written_is_named_and_not_the_file(tmp_path: Path) -> None:
    source = source_of(write(tmp_path, 9, 8))
    (tmp_path / "cache").write_text("a file in its place")
    with pytest.raises(DataError, match=r"paths\.cache") as caught:
        source.read(source.cases()[0])
    assert caught.value.faults[0].check == "unwritable_cache"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 9, 8))}, "train_images"),
        ({"train_images": np.zeros((2, 9, 8)), "train_labels": np.zeros(3)}, r"train_labels of shape \(2, columns\)"),
        ({"train_images": np.zeros((2, 9, 8)), "train_labels": np.zeros((2, 0))}, "train_labels"),
        ({"train_images": np.zeros((2, 9)), "train_labels": np.zeros(2)}, "train_images of shape"),
        ({"train_images": np.zeros((2, 9, 8, 7)), "train_labels": np.zeros(2)}, "spatial_dims=3"),
        ({"train_images": np.zeros((2, 9, 8)), "test_images": np.zeros((2, 9, 8, 3))}, "grey and coloured"),
        ({"train_images": np.array([[None]]), "train_labels": np.zeros(1)}, "no plain numbers"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "toymnist.npz", **arrays)
    with pytest.raises(DataError, match=message):
        source_of(tmp_path).cases()


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html>", None], ids=["empty", "html", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = write(tmp_path, 9, 8) / "toymnist.npz"
    path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    with pytest.raises(DataError, match=r"toymnist\.npz"):
        source_of(tmp_path).cases()


def test_damage_within_the_images_is_found_when_they_are_unpacked(tmp_path: Path) -> None:
    path = write(tmp_path, 9, 8, save=np.savez) / "toymnist.npz"
    content = bytearray(path.read_bytes())
    place = content.index(images("train", 9, 8)[4].tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="CRC"):
        (source := source_of(tmp_path)).read(source.cases()[0])
    assert list((tmp_path / "cache/unpacked").glob("*.npy")) == []


def test_the_file_is_named_where_a_folder_has_several(tmp_path: Path) -> None:
    write(tmp_path, 9, 8)
    (tmp_path / "other.npz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"one \.npz file, got other\.npz, toymnist\.npz"):
        source_of(tmp_path).cases()
    source = source_of(tmp_path, file="toymnist.npz")
    assert source.name == "toymnist"
    assert len(source.cases()) == sum(SIZES.values())
    with pytest.raises(DataError, match="missing"):
        source_of(tmp_path, file="absent.npz").cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, "root"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"file": "../x.npz"}, "file"),
        ({"class_names": "benign"}, "class_names"),
        ({"class_names": ["a", "a"]}, "class_names"),
    ],
)
def test_unfit_knobs_are_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MedMNIST(**{"root": tmp_path, "cache_dir": tmp_path} | knobs)


@pytest.mark.real_data
def test_real_breast_images_are_whole(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("medmnist")
    source = MedMNIST(
        root=root, cache_dir=tmp_path, file="breastmnist.npz", class_names=["malignant", "normal, benign"]
    )
    cases = source.cases()
    assert Counter((case.split, *case.facts["labels"]) for case in cases) == {
        ("train", 0): 147,
        ("train", 1): 399,
        ("val", 0): 21,
        ("val", 1): 57,
        ("test", 0): 42,
        ("test", 1): 114,
    }
    with np.load(root / "breastmnist.npz") as file:
        whole = np.concatenate([file[f"{part}_images"] for part in ("train", "val", "test")])
    np.testing.assert_array_equal(np.stack([source.read(case).pixels[0] for case in cases]), whole)
