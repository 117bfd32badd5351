"""Which voxels of an image a patch shows: cropped, flipped, turned and scaled, on grids of any spacing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import rescale

from medexp.core.types import Annotation
from medexp.data.augmentation import Augmentation, Drawn, cut_patch

PLAIN = Drawn()


def cut(pixels: np.ndarray, mask: np.ndarray | None, drawn: Drawn = PLAIN, spacing_mm=None, **knobs):
    """A patch and its mask as arrays."""
    spacing_mm = spacing_mm or (1.0,) * (pixels.ndim - 1)
    patch, known = cut_patch(pixels, Annotation(mask=mask), drawn=drawn, spacing_mm=spacing_mm, **knobs)
    return patch.numpy(), known.mask


def image_and_mask(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(2, *shape)).astype(np.float32), random.integers(0, 4, size=shape, dtype=np.int16)


def resampled(array: np.ndarray, matrix: np.ndarray, center, patch_size, *, order: int) -> np.ndarray:
    """Patch voxel o shows the image at center + matrix @ (o - middle of the patch); zeros lie outside."""
    offset = np.array(center) - matrix @ ((np.array(patch_size) - 1) / 2)
    return ndimage.affine_transform(
        array, matrix, offset, output_shape=patch_size, order=order, mode="grid-constant", cval=0.0
    )


def plain_crop(array: np.ndarray, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """A crop with zeros outside, of the last axes."""
    dims = len(size)
    padded = np.pad(array, [(0, 0)] * (array.ndim - dims) + [(40, 40)] * dims)
    return padded[(..., *(slice(40 + first, 40 + first + n) for first, n in zip(start, size, strict=True)))]


@settings(deadline=None, database=None)
@given(
    start=st.tuples(st.integers(-9, 12), st.integers(-9, 12)),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 1000),
)
def test_with_all_probabilities_at_zero_a_patch_is_the_plain_crop(start, size, seed):
    pixels, mask = image_and_mask(11, 9)
    center = tuple(first + (n - 1) / 2 for first, n in zip(start, size, strict=True))
    drawn = Augmentation().draw(np.random.default_rng(seed), spatial_dims=2, n_channels=2)
    patch, labels = cut(pixels, mask, center=center, patch_size=size, drawn=drawn)
    assert np.array_equal(patch, plain_crop(pixels, start, size))
    assert np.array_equal(labels, plain_crop(mask, start, size))
    assert labels.dtype == np.int16


def test_a_patch_larger_than_the_image_holds_it_in_zeros():
    pixels, mask = image_and_mask(4, 5, 3)
    patch, labels = cut(pixels, mask, center=(1.5, 2.0, 1.0), patch_size=(8, 5, 9))
    assert np.array_equal(patch, np.pad(pixels, [(0, 0), (2, 2), (0, 0), (3, 3)]))
    assert np.array_equal(labels, np.pad(mask, [(2, 2), (0, 0), (3, 3)]))


@pytest.mark.parametrize(
    "drawn", [Drawn(), Drawn(rotation_degrees=(20.0,)), Drawn(scale=0.8), Drawn(elastic_mm=2.0, elastic_spacing_mm=9.0)]
)
def test_a_patch_beside_the_image_is_zero(drawn):
    pixels, mask = image_and_mask(4, 5)
    for center in [(50.0, -50.0), (2.0, 30.0), (-9.0, 2.0)]:
        patch, labels = cut(pixels, mask, center=center, patch_size=(3, 3), drawn=drawn)
        assert not patch.any()
        assert not labels.any()


# Angles, scale, spacing, centre and patch.
CUTS = [
    ((30.0,), 1.0, (1.0, 1.0), (20.0, 17.0), (9, 12)),
    ((-75.0,), 1.0, (1.0, 1.0), (20.5, 17.0), (10, 11)),
    ((90.0,), 1.0, (1.0, 1.0), (15.0, 15.0), (7, 7)),
    ((), 1.4, (1.0, 1.0), (20.0, 17.5), (9, 12)),
    ((), 0.73, (1.0, 1.0), (20.5, 17.5), (12, 12)),
    ((12.0,), 1.2, (1.0, 1.0), (3.0, 30.0), (10, 13)),
    ((0.001,), 1.0, (1.0, 1.0), (11.5, 11.5), (8, 8)),
    ((25.0,), 1.0, (0.7, 2.1), (18.0, 17.5), (13, 9)),
    ((0.0, 25.0, 0.0), 1.0, (1.0, 1.0, 1.0), (9.0, 10.5, 8.0), (8, 6, 7)),
    ((25.0, 0.0, -40.0), 0.8, (1.0, 1.0, 1.0), (9.0, 10.0, 2.0), (8, 9, 6)),
    ((10.0, 20.0, -15.0), 0.9, (0.8, 0.8, 3.0), (9.0, 10.0, 8.0), (8, 9, 6)),
    ((), 0.6, (0.8, 0.8, 3.0), (19.2, -2.1, 8.3), (8, 9, 6)),
]


@pytest.mark.parametrize(("degrees", "scale", "spacing_mm", "center", "patch_size"), CUTS)
@pytest.mark.parametrize("axes_flipped", [(), (1,)])
def test_rotation_and_scale_in_millimetres_agree_with_scipy(
    degrees, scale, spacing_mm, center, patch_size, axes_flipped
):
    dims = len(center)
    pixels, mask = image_and_mask(*((40, 36) if dims == 2 else (20, 22, 18)))
    planes = [(0, 1)] if dims == 2 else [(0, 1), (0, 2), (1, 2)]
    matrix = np.eye(dims) / scale
    for angle, (i, j) in zip(np.radians(degrees), planes, strict=False):
        turn = np.eye(dims)
        turn[[i, j], [i, j]], turn[i, j], turn[j, i] = math.cos(angle), math.sin(angle), -math.sin(angle)
        matrix = matrix @ turn
    in_voxels = np.diag(1 / np.array(spacing_mm)) @ matrix @ np.diag(spacing_mm)
    drawn = Drawn(rotation_degrees=degrees, scale=scale, axes_flipped=axes_flipped)
    patch, labels = cut(pixels, mask, drawn, spacing_mm, center=center, patch_size=patch_size)
    expected = np.stack([resampled(channel, in_voxels, center, patch_size, order=1) for channel in pixels])
    np.testing.assert_allclose(patch, np.flip(expected, [axis + 1 for axis in axes_flipped]), atol=2e-4)
    # A voxel that lies between two labels to the last digit may take either.
    same = labels == np.flip(resampled(mask, in_voxels, center, patch_size, order=0), axes_flipped)
    assert same.mean() > 0.98


def test_positive_angles_turn_what_is_seen_as_scipy_and_numpy_do():
    pixels = ndimage.gaussian_filter(image_and_mask(41, 41)[0][:1], (0, 2, 2))
    patch, _ = cut(pixels, None, Drawn(rotation_degrees=(30.0,)), center=(20.0, 20.0), patch_size=(21, 21))
    turned = ndimage.rotate(pixels[0], 30.0, axes=(0, 1), reshape=False, order=1)[10:31, 10:31]
    np.testing.assert_allclose(patch[0], turned, atol=1e-4)
    quarter, _ = cut(pixels, None, Drawn(rotation_degrees=(90.0,)), center=(20.0, 20.0), patch_size=(21, 21))
    np.testing.assert_allclose(quarter[0], np.rot90(pixels[0])[10:31, 10:31], atol=1e-4)


def test_a_scale_above_one_enlarges_as_skimage_does():
    pixels = ndimage.gaussian_filter(image_and_mask(41, 41)[0][:1], (0, 2, 2))
    patch, _ = cut(pixels, None, Drawn(scale=2.0), center=(20.0, 20.0), patch_size=(22, 22))
    # At twice the resolution, 82 voxels; the middle of voxel 20 is the edge between 40 and 41.
    larger = rescale(pixels[0], 2.0, order=1, anti_aliasing=False)
    np.testing.assert_allclose(patch[0], larger[30:52, 30:52], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_ball_stays_a_ball_on_a_grid_of_long_voxels(seed):
    spacing_mm = np.array([1.0, 1.0, 4.0])
    position = (np.indices((41, 41, 41)) - 20) * spacing_mm[:, None, None, None]
    ellipsoid = (np.square(position / np.array([10.0, 10.0, 16.0])[:, None, None, None]).sum(axis=0) < 1).astype(
        np.uint8
    )
    augmentation = Augmentation(rotation_probability=1.0, rotation_degrees=45.0)
    drawn = augmentation.draw(np.random.default_rng(seed), spatial_dims=3, n_channels=1)
    _, seen = cut(ellipsoid[None].astype(np.float32), ellipsoid, drawn, tuple(spacing_mm),
                  center=(20.0, 20.0, 20.0), patch_size=(41, 41, 41))  # fmt: skip
    assert float(seen.sum()) == pytest.approx(float(ellipsoid.sum()), rel=0.03)
    moments = [np.linalg.eigvalsh(np.cov((np.argwhere(volume) * spacing_mm).T)) for volume in (seen, ellipsoid)]
    np.testing.assert_allclose(*moments, rtol=0.06)


def test_a_tiny_rotation_hardly_moves_a_patch():
    pixels = ndimage.gaussian_filter(image_and_mask(30, 30)[0], (0, 2, 2))
    for center in [(14.0, 15.5), (13.5, 14.5)]:
        for size in [(7, 8), (10, 10)]:
            expected = resampled(pixels[0], np.eye(2), center, size, order=1)
            for angle in (0.0005, 0.001):
                patch, _ = cut(pixels, None, Drawn(rotation_degrees=(angle,)), center=center, patch_size=size)
                np.testing.assert_allclose(patch[0], expected, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dims", [2, 3])
def test_labels_stay_on_what_they_name(dims, seed):
    position = np.indices((64,) * dims) - np.array([28, 33, 31][:dims]).reshape(-1, *(1,) * dims)
    distance = np.sqrt(np.square(position).sum(axis=0))
    augmentation = Augmentation(
        rotation_probability=1.0,
        rotation_degrees=60.0,
        scale_probability=1.0,
        elastic_probability=1.0,
        flip_axes=list(range(dims)),
    )
    drawn = augmentation.draw(np.random.default_rng(seed), spatial_dims=dims, n_channels=1)
    patch, labels = cut(
        distance[None].astype(np.float32),
        (distance < 6).astype(np.int16),
        drawn,
        center=(31.0, 32.0, 31.5)[:dims],
        patch_size=(17, 18, 16)[:dims],
    )
    inside, far = patch[0][labels == 1], patch[0][labels == 0]
    # The image is the distance itself, so it tells how far a label is off: half a voxel's diagonal at most.
    reach = math.sqrt(dims) / 2 + 0.3
    assert inside.max() < 6 + reach
    assert far.min() > 6 - reach


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1), (2,), (0, 2)])
def test_flips_reverse_image_and_labels(axes):
    pixels, mask = image_and_mask(6, 7, 8)
    patch, labels = cut(pixels, mask, Drawn(axes_flipped=axes), center=(2.5, 3.0, 3.5), patch_size=(6, 7, 8))
    assert np.array_equal(patch, np.flip(pixels, [axis + 1 for axis in axes]))
    assert np.array_equal(labels, np.flip(mask, axes))


@pytest.mark.parametrize("drawn", [Drawn(), Drawn(rotation_degrees=(7.0, 3.0, 2.0)), Drawn(scale=1.1)])
def test_half_precision_and_mapped_images_are_read_as_they_are(drawn, tmp_path):
    pixels, mask = image_and_mask(12, 13, 14)
    np.save(tmp_path / "half.npy", pixels.astype(np.float16))
    mapped = np.load(tmp_path / "half.npy", mmap_mode="r")
    knobs = {"center": (5.0, 6.0, 7.0), "patch_size": (8, 8, 8), "drawn": drawn}
    half, _ = cut(mapped, mask, **knobs)
    whole, _ = cut(pixels.astype(np.float16).astype(np.float32), mask, **knobs)
    assert half.dtype == np.float32
    assert np.array_equal(half, whole)


@pytest.mark.parametrize("drawn", [Drawn(rotation_degrees=(7.0,)), Drawn(scale=1.1)])
def test_ids_that_fp32_cannot_hold_stay_what_they_are(drawn):
    ids = np.arange(2**40, 2**40 + 144, dtype=np.int64).reshape(12, 12)
    _, found = cut(np.zeros((1, 12, 12), dtype=np.float32), ids, drawn, center=(5.5, 5.5), patch_size=(6, 6))
    assert set(found.ravel()) <= set(ids.ravel())


@pytest.mark.parametrize("drawn", [Drawn(), Drawn(axes_flipped=(0,)), Drawn(rotation_degrees=(9.0,)), Drawn(scale=0.9)])
def test_the_image_itself_is_never_changed(drawn):
    pixels, mask = image_and_mask(12, 12)
    before = pixels.copy(), mask.copy()
    patch, labels = cut(pixels, mask, drawn, center=(5.5, 5.5), patch_size=(12, 12))
    patch += 1
    labels += 1
    assert np.array_equal(pixels, before[0])
    assert np.array_equal(mask, before[1])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "drawn",
    [
        Drawn(),
        Drawn(rotation_degrees=(20.0, 0.0, 0.0)),
        Drawn(scale=0.9),
        Drawn(elastic_mm=1e-6, elastic_spacing_mm=9.0),
    ],
)
def test_only_the_window_of_a_mapped_volume_is_read(tmp_path, drawn):
    # Two gigabytes that take no room on the disk, being holes.
    volume = np.lib.format.open_memmap(tmp_path / "pixels.npy", mode="w+", dtype=np.float32, shape=(1, 512, 1024, 1024))
    volume[0, 300, 400, 500] = 7.0
    volume.flush()
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    cut(pixels[:, :32], None, drawn, center=(8.0, 8.0, 8.0), patch_size=(16, 16, 16))
    before = resident_bytes()
    patch, _ = cut(pixels, None, drawn, center=(300.0, 400.0, 500.0), patch_size=(17, 17, 17))
    assert patch[0, 8, 8, 8] == pytest.approx(7.0, abs=1e-3)
    assert resident_bytes() - before < 50e6
