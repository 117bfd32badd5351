from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Image
from medexp.data.sources.ellipse_pairs import EllipsePairs

SMALL: dict[str, Any] = {"n_cases": 8, "shape": [110, 96], "n_pairs": [1, 4], "radius_px": [8.0, 14.0]}


def images(folder: Path, **knobs: Any) -> list[Image]:
    source = EllipsePairs(cache_dir=folder, **SMALL | knobs)
    return [source.read(case) for case in source.cases()]


def instances(folder: Path, **knobs: Any) -> list[np.ndarray]:
    return [image.annotation.instances for image in images(folder, **knobs)]


def pixels(folder: Path, **knobs: Any) -> np.ndarray:
    return np.stack([image.pixels[0] for image in images(folder, **knobs)])


def test_image_mask_instances_and_objects_agree(tmp_path: Path) -> None:
    for image in images(tmp_path):
        found, objects = image.annotation.instances, image.annotation.objects
        assert image.pixels.shape == (1, 110, 96)
        assert image.pixels.dtype == np.float32
        assert image.geometry.unit == "px"
        assert np.array_equal(np.unique(found), np.arange(len(objects) + 1))
        assert np.array_equal(image.annotation.mask, found > 0)
        assert set(objects.labels.tolist()) == {1}
        for number, box in enumerate(ndimage.find_objects(found), start=1):
            assert objects.boxes[number - 1].tolist() == [axis.start for axis in box] + [axis.stop for axis in box]


def test_two_halves_make_an_ellipse_and_touch_nothing_else(tmp_path: Path) -> None:
    for found in instances(tmp_path):
        parts, n_parts = ndimage.label(found, np.ones((3, 3)))
        assert n_parts == found.max() / 2
        for number in range(1, found.max() + 1, 2):
            pair = np.isin(found, (number, number + 1))
            assert len(np.unique(parts[pair])) == 1
            assert all(ndimage.label(found == half)[1] == 1 for half in (number, number + 1))
            # The area of an ellipse follows from its second moments.
            covariance = np.cov(np.argwhere(pair).T)
            assert pair.sum() == pytest.approx(4 * np.pi * np.sqrt(np.linalg.det(covariance)), rel=0.02)
            assert not pair[[0, -1]].any()
            assert not pair[:, [0, -1]].any()


def test_half_axes_are_in_their_range(tmp_path: Path) -> None:
    for found in instances(tmp_path, radius_px=[9.0, 11.0]):
        for number in range(1, found.max() + 1, 2):
            axes = 2 * np.sqrt(np.linalg.eigvalsh(np.cov(np.argwhere(np.isin(found, (number, number + 1))).T)))
            assert 8.5 < axes.min() <= axes.max() < 11.5


def shares_of_boxes(found: np.ndarray) -> list[float]:
    """How much of the smaller box the boxes of each two halves have in common."""
    boxes = [np.array([[axis.start, axis.stop] for axis in box]) for box in ndimage.find_objects(found)]
    shares = []
    for first, second in zip(boxes[::2], boxes[1::2], strict=True):
        common = np.clip(np.minimum(first[:, 1], second[:, 1]) - np.maximum(first[:, 0], second[:, 0]), 0, None).prod()
        shares.append(common / min(np.ptp(first, axis=1).prod(), np.ptp(second, axis=1).prod()))
    return shares


def test_boxes_overlap_by_little_or_by_much_as_the_cut_runs(tmp_path: Path) -> None:
    along = [share for found in instances(tmp_path, oblique=0.0) for share in shares_of_boxes(found)]
    oblique = [share for found in instances(tmp_path, oblique=1.0) for share in shares_of_boxes(found)]
    assert np.mean(along) < 0.15
    assert np.mean(oblique) > 0.35


def test_a_cut_through_the_centre_makes_halves_of_one_size(tmp_path: Path) -> None:
    def ratios(off_centre: float) -> list[float]:
        counts = [np.bincount(found.ravel())[1:] for found in instances(tmp_path, off_centre=off_centre)]
        return [min(pair) / max(pair) for each in counts for pair in zip(each[::2], each[1::2], strict=True)]

    assert min(ratios(0.0)) > 0.88  # but for the pixels on the cut
    assert min(ratios(0.5)) < 0.7


def test_brightness_of_the_halves_and_the_ground(tmp_path: Path) -> None:
    knobs = {"blur_px": 0.0, "noise": 0.0, "contrast": 0.2, "brightness": [0.3, 0.8]}
    for image in images(tmp_path, **knobs):
        found, seen = image.annotation.instances, image.pixels[0]
        assert np.unique(seen[found == 0]).tolist() == [pytest.approx(0.1, abs=0.002)]
        greys = [np.unique(seen[found == number]) for number in range(1, found.max() + 1)]
        assert all(len(grey) == 1 and 0.398 <= grey[0] <= 0.902 for grey in greys)
        assert all(abs(a[0] - b[0]) >= 0.2 - 0.004 for a, b in zip(greys[::2], greys[1::2], strict=True))


def test_noise_and_blur_change_the_picture_and_not_the_shapes(tmp_path: Path) -> None:
    plain = images(tmp_path, blur_px=0.0, noise=0.0)
    for knobs in ({"blur_px": 2.0, "noise": 0.0}, {"blur_px": 0.0, "noise": 0.1}):
        for before, after in zip(plain, images(tmp_path, **knobs), strict=True):
            assert np.array_equal(before.annotation.instances, after.annotation.instances)
            assert not np.array_equal(before.pixels, after.pixels)
    ground = pixels(tmp_path, brightness=[0.3, 0.6], contrast=0.1, noise=0.02, blur_px=0.0)[
        np.stack(instances(tmp_path)) == 0
    ]
    assert ground.std() == pytest.approx(0.02, rel=0.05)


def test_a_case_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    first, again = pixels(tmp_path / "a"), pixels(tmp_path / "b", n_cases=3)
    assert np.array_equal(first[:3], again)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(pixels(tmp_path / "c", n_cases=1, seed=1)[0], first[0])


def test_cases_are_drawn_once_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    source = EllipsePairs(cache_dir=tmp_path, **SMALL)
    case = source.cases()[2]
    written = case.images[0].stat().st_mtime_ns
    assert EllipsePairs(cache_dir=tmp_path, **SMALL).cases()[2].images[0].stat().st_mtime_ns == written
    case.images[0].write_bytes(b"no picture")
    with pytest.raises(DataError, match="case_0002"):
        source.read(case)


@pytest.mark.parametrize(
    ("knob", "value"),
    [("shape", [16, 64]), ("shape", [64]), ("n_cases", 0), ("n_pairs", [0, 2]), ("n_pairs", [3, 2]),
     ("radius_px", [2.0, 8.0]), ("radius_px", [8.0, 60.0]), ("oblique", 1.5),
     ("off_centre", 0.6), ("brightness", [0.3, 1.0]),
     ("contrast", 0.4), ("blur_px", -1.0), ("noise", -0.1), ("seed", -1)],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, knob: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"{knob} of ellipse_pairs"):
        EllipsePairs(cache_dir=tmp_path, **SMALL | {knob: value})
