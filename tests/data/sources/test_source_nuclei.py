from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Image
from medexp.data.sources.nuclei import Nuclei

FLAT: dict[str, Any] = {"spatial_dims": 2, "n_cases": 6, "shape": [64, 56], "spacing_mm": [1.0, 1.0]}
SOLID: dict[str, Any] = {"spatial_dims": 3, "n_cases": 3, "shape": [16, 36, 32], "spacing_mm": [2.0, 1.0, 1.0]}
BOTH = pytest.mark.parametrize("knobs", [FLAT, SOLID], ids=["2d", "3d"])


def images(source: Nuclei) -> list[Image]:
    return [source.read(case) for case in source.cases()]


def instances(source: Nuclei) -> list[np.ndarray]:
    return [image.annotation.instances for image in images(source)]


def pixels(source: Nuclei) -> list[np.ndarray]:
    return [image.pixels for image in images(source)]


@BOTH
def test_image_mask_instances_and_objects_agree(tmp_path: Path, knobs: dict[str, Any]) -> None:
    for image in images(Nuclei(cache_dir=tmp_path, empty=0.0, **knobs)):
        found, objects = image.annotation.instances, image.annotation.objects
        assert image.pixels.shape == (1, *knobs["shape"])
        assert image.pixels.dtype == np.float32
        assert image.geometry.spacing_mm == tuple(knobs["spacing_mm"])
        assert np.array_equal(np.unique(found), np.arange(len(objects) + 1))
        for number, box in enumerate(ndimage.find_objects(found), start=1):
            assert objects.boxes[number - 1].tolist() == [axis.start for axis in box] + [axis.stop for axis in box]
            assert set(image.annotation.mask[found == number]) == {objects.labels[number - 1]}
        assert np.array_equal(image.annotation.mask > 0, found > 0)


@BOTH
def test_each_nucleus_is_in_one_piece(tmp_path: Path, knobs: dict[str, Any]) -> None:
    for found in instances(Nuclei(cache_dir=tmp_path, **knobs)):
        assert all(ndimage.label(found == number)[1] == 1 for number in range(1, found.max() + 1))


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.15, 5, 7), (1.0, 40, 40)])
def test_share_of_pictures_without_a_nucleus(tmp_path: Path, share: float, fewest: int, most: int) -> None:
    read = images(Nuclei(cache_dir=tmp_path, empty=share, **FLAT | {"n_cases": 40}))
    empty = [image for image in read if len(image.annotation.objects) == 0]
    assert fewest <= len(empty) <= most
    assert all(not image.annotation.mask.any() and image.annotation.objects.spatial_dims == 2 for image in empty)


def test_number_of_nuclei_is_in_its_range_where_there_is_room(tmp_path: Path) -> None:
    knobs = FLAT | {"shape": [128, 128], "n_cases": 30, "n_nuclei": [2, 5], "empty": 0.0}
    numbers = {found.max() for found in instances(Nuclei(cache_dir=tmp_path, **knobs))}
    assert numbers == {2, 3, 4, 5}


def touching_share(source: Nuclei) -> float:
    """Share of the nuclei whose dilation by a voxel meets another one."""
    touches = []
    for found in instances(source):
        for number in range(1, found.max() + 1):
            around = ndimage.binary_dilation(found == number, np.ones((3, 3)))
            touches.append(bool(((found > 0) & (found != number) & around).any()))
    return float(np.mean(touches))


def test_nuclei_touch_if_told_so(tmp_path: Path) -> None:
    knobs = FLAT | {"shape": [128, 128], "n_cases": 15}
    alone, together = (Nuclei(cache_dir=tmp_path, touching=share, **knobs) for share in (0.0, 1.0))
    assert touching_share(alone) < 0.25
    assert touching_share(together) > 0.9


def test_share_of_mitotic_nuclei(tmp_path: Path) -> None:
    knobs = FLAT | {"n_cases": 40}
    labels = [image.annotation.objects.labels for image in images(Nuclei(cache_dir=tmp_path, mitotic=0.3, **knobs))]
    assert np.mean(np.concatenate(labels) == 2) == pytest.approx(0.3, abs=0.08)
    none = [image.annotation.objects.labels for image in images(Nuclei(cache_dir=tmp_path, mitotic=0.0, **knobs))]
    assert set(np.concatenate(none)) == {1}


def test_nuclei_are_round_in_millimetres_not_in_voxels(tmp_path: Path) -> None:
    knobs = {"spatial_dims": 2, "n_cases": 40, "shape": [96, 48], "spacing_mm": [1.0, 2.0], "n_nuclei": [1, 1]}
    read = images(Nuclei(cache_dir=tmp_path, mitotic=0.0, empty=0.0, **knobs))
    whole = [
        (objects.high - objects.low)[0]
        for objects in (image.annotation.objects for image in read)
        if objects.low.min() > 0 and (objects.high < [96, 48]).all()
    ]
    rows, columns = np.mean(whole, axis=0)
    assert rows / columns == pytest.approx(2, rel=0.1)


def test_nuclei_are_brighter_than_the_ground_in_both_classes(tmp_path: Path) -> None:
    read = images(Nuclei(cache_dir=tmp_path, **FLAT | {"n_cases": 30}))
    values, mask = (
        np.stack(arrays).ravel() for arrays in ([i.pixels[0] for i in read], [i.annotation.mask for i in read])
    )
    ground, interphase, mitotic = (values[mask == label] for label in (0, 1, 2))
    assert ground.mean() < 0.2
    assert interphase.mean() > 0.5
    assert mitotic.mean() == pytest.approx(interphase.mean(), rel=0.2)


def test_an_empty_picture_may_hold_specks(tmp_path: Path) -> None:
    knobs = FLAT | {"n_cases": 20, "empty": 1.0, "noise": 0.0}
    plain, specks = (pixels(Nuclei(cache_dir=tmp_path, max_specks=most, **knobs)) for most in (0, 5))
    assert max(image.max() for image in plain) < 0.2
    assert max(image.max() for image in specks) > 0.3


def test_a_case_does_not_depend_on_the_size_of_the_set(tmp_path: Path) -> None:
    few, many = (Nuclei(cache_dir=tmp_path / str(n), **FLAT | {"n_cases": n}) for n in (2, 6))
    assert few.folder.name == many.folder.name
    for first, second in zip(few.cases(), many.cases(), strict=False):
        assert first.images[0].read_bytes() == second.images[0].read_bytes()


@pytest.mark.parametrize(
    "knob",
    [
        {"n_nuclei": [1, 2]},
        {"empty": 1.0},
        {"touching": 0.0},
        {"radius_mm": [3.0, 4.0]},
        {"mitotic": 1.0},
        {"brightness": [0.2, 0.3]},
        {"texture": 0.0},
        {"max_specks": 9},
        {"blur_mm": 2.0},
        {"noise": 0.2},
        {"seed": 1},
    ],
    ids=lambda knob: next(iter(knob)),
)
def test_every_knob_changes_the_pictures_and_their_folder(tmp_path: Path, knob: dict[str, Any]) -> None:
    source, changed = (Nuclei(cache_dir=tmp_path, **FLAT, **extra) for extra in ({}, knob))
    assert source.folder != changed.folder
    assert not np.array_equal(pixels(source), pixels(changed))


@pytest.mark.parametrize("knob", [{"noise": 0.3}, {"texture": 0.0}, {"blur_mm": 0.0}, {"max_specks": 0}], ids=str)
def test_appearance_does_not_change_the_nuclei(tmp_path: Path, knob: dict[str, Any]) -> None:
    source, changed = (Nuclei(cache_dir=tmp_path, **FLAT, **extra) for extra in ({}, knob))
    np.testing.assert_array_equal(instances(source), instances(changed))


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("spatial_dims", 4),
        ("n_cases", 0),
        ("shape", [64]),
        ("shape", [64, 8]),
        ("spacing_mm", [1.0, 0.0]),
        ("n_nuclei", [0, 3]),
        ("n_nuclei", [4, 3]),
        ("empty", 1.5),
        ("touching", -0.1),
        ("radius_mm", [0.0, 3.0]),
        ("radius_mm", [3.0]),
        ("mitotic", 2.0),
        ("brightness", [0.0, 1.0]),
        ("texture", -0.1),
        ("max_specks", -1),
        ("blur_mm", -1.0),
        ("noise", float("nan")),
        ("seed", -1),
    ],
)
def test_an_unfit_knob_is_named_with_its_value(tmp_path: Path, knob: str, value: Any) -> None:
    with pytest.raises(UsageError, match=knob) as caught:
        Nuclei(cache_dir=tmp_path, **FLAT | {knob: value})
    assert str(value[-1] if isinstance(value, list) else value) in str(caught.value)


def test_a_damaged_file_is_named_with_its_remedy(tmp_path: Path) -> None:
    source = Nuclei(cache_dir=tmp_path, **FLAT)
    case = source.cases()[1]
    case.images[0].write_bytes(case.images[0].read_bytes()[:500])
    with pytest.raises(DataError, match=r"case_0001.*delete it"):
        source.read(case)


def test_a_source_travels_to_a_worker(tmp_path: Path) -> None:
    source = Nuclei(cache_dir=tmp_path, **FLAT)
    assert pickle.loads(pickle.dumps(source)).cases() == source.cases()
