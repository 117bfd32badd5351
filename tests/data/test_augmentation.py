from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import Annotation
from medexp.data.augmentation import Augmentation, Drawn, cut_patch

OFF = {
    "flip_axes": [],
    "rotation_probability": 0.0,
    "rotation_degrees": 15.0,
    "scale_probability": 0.0,
    "scale_range": [0.7, 1.4],
    "brightness_probability": 0.0,
    "brightness": 0.2,
    "contrast_probability": 0.0,
    "contrast_range": [0.75, 1.25],
    "gamma_probability": 0.0,
    "gamma_range": [0.7, 1.5],
    "noise_probability": 0.0,
    "noise_std": 0.1,
}
INGREDIENTS = ("rotation", "scale", "brightness", "contrast", "gamma", "noise")
ON = OFF | {f"{name}_probability": 1.0 for name in INGREDIENTS} | {"flip_axes": [0]}


def cut(pixels: np.ndarray, mask: np.ndarray | None, **knobs) -> tuple[torch.Tensor, torch.Tensor | None]:
    """A patch and its mask as tensors."""
    patch, annotation = cut_patch(pixels, Annotation(mask=mask), **knobs)
    return patch, None if annotation.mask is None else torch.from_numpy(annotation.mask)


def image_and_mask(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(2, *shape)).astype(np.float32), random.integers(0, 4, size=shape, dtype=np.int16)


def drawn(dims: int, **changed) -> Drawn:
    return Drawn(**({"matrix": np.eye(dims)} | changed))


def draw(seed: int = 0, dims: int = 2, **knobs) -> Drawn:
    return Augmentation(**(OFF | knobs)).draw(np.random.default_rng(seed), dims)


def turned(degrees: float, dims: int = 2, plane: tuple[int, int] = (0, 1)) -> np.ndarray:
    matrix, (i, j) = np.eye(dims), plane
    matrix[i, i] = matrix[j, j] = math.cos(math.radians(degrees))
    matrix[i, j], matrix[j, i] = -math.sin(math.radians(degrees)), math.sin(math.radians(degrees))
    return matrix


def resampled(array: np.ndarray, matrix: np.ndarray, center, patch_size, *, order: int) -> np.ndarray:
    """Patch voxel o shows the image at center + matrix @ (o - middle of the patch); zeros lie outside."""
    middle = (np.array(patch_size) - 1) / 2
    offset = np.array(center) - matrix @ middle
    return ndimage.affine_transform(
        array, matrix, offset, output_shape=patch_size, order=order, mode="grid-constant", cval=0.0
    )


def plain_crop(array: np.ndarray, start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    """A crop with zeros outside, of the last axes."""
    dims = len(size)
    padding = [(0, 0)] * (array.ndim - dims) + [(40, 40)] * dims
    padded = np.pad(array, padding)
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
    patch, labels = cut(pixels, mask, center=center, patch_size=size, drawn=draw(seed))
    assert np.array_equal(patch.numpy(), plain_crop(pixels, start, size))
    assert np.array_equal(labels.numpy(), plain_crop(mask, start, size))
    assert labels.numpy().dtype == np.int16


def test_a_patch_larger_than_the_image_holds_it_in_zeros():
    pixels, mask = image_and_mask(4, 5, 3)
    patch, labels = cut(pixels, mask, center=(1.5, 2.0, 1.0), patch_size=(8, 5, 9), drawn=drawn(3))
    assert np.array_equal(patch.numpy(), np.pad(pixels, [(0, 0), (2, 2), (0, 0), (3, 3)]))
    assert np.array_equal(labels.numpy(), np.pad(mask, [(2, 2), (0, 0), (3, 3)]))


def test_a_patch_beside_the_image_is_zero():
    pixels, mask = image_and_mask(4, 5)
    for matrix in (np.eye(2), turned(20.0)):
        patch, labels = cut(pixels, mask, center=(50.0, -50.0), patch_size=(3, 3), drawn=drawn(2, matrix=matrix))
        assert not patch.any()
        assert not labels.any()


MATRICES = [
    (turned(30.0), (20.0, 17.0), (9, 12)),
    (turned(-75.0), (20.5, 17.0), (10, 11)),
    (turned(90.0), (15.0, 15.0), (7, 7)),
    (np.eye(2) / 1.4, (20.0, 17.5), (9, 12)),
    (np.eye(2) / 0.73, (20.5, 17.5), (12, 12)),
    (turned(12.0) / 1.2, (3.0, 30.0), (10, 13)),
    (turned(0.001), (11.5, 11.5), (8, 8)),
    (turned(25.0, 3, (0, 2)), (9.0, 10.5, 8.0), (8, 6, 7)),
    (turned(25.0, 3, (0, 1)) @ turned(-40.0, 3, (1, 2)) / 0.8, (9.0, 10.0, 2.0), (8, 9, 6)),
]


@pytest.mark.parametrize(("matrix", "center", "patch_size"), MATRICES)
def test_rotation_and_scale_agree_with_scipy(matrix, center, patch_size):
    shape = (40, 36) if len(center) == 2 else (20, 22, 18)
    pixels, mask = image_and_mask(*shape)
    patch, labels = cut(pixels, mask, center=center, patch_size=patch_size, drawn=drawn(len(center), matrix=matrix))
    expected = np.stack([resampled(channel, matrix, center, patch_size, order=1) for channel in pixels])
    np.testing.assert_allclose(patch.numpy(), expected, atol=2e-4)
    # A voxel that lies between two labels to the last digit may take either.
    same = labels.numpy() == resampled(mask, matrix, center, patch_size, order=0)
    assert same.mean() > 0.98


def test_a_tiny_rotation_hardly_moves_a_patch():
    pixels = ndimage.gaussian_filter(image_and_mask(30, 30)[0], (0, 2, 2))
    for center in [(14.0, 15.5), (13.5, 14.5)]:
        for size in [(7, 8), (10, 10)]:
            patches = [
                cut(pixels, None, center=center, patch_size=size, drawn=drawn(2, matrix=turned(angle)))[0]
                for angle in (0.0005, 0.001)
            ]
            expected = resampled(pixels[0], np.eye(2), center, size, order=1)
            for patch in patches:
                np.testing.assert_allclose(patch[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("dims", [2, 3])
def test_labels_stay_on_what_they_name(dims, seed):
    position = np.indices((64,) * dims) - np.array([28, 33, 31][:dims]).reshape(-1, *(1,) * dims)
    distance = np.sqrt(np.square(position).sum(axis=0))
    knobs = {
        "rotation_probability": 1.0,
        "rotation_degrees": 60.0,
        "scale_probability": 1.0,
        "flip_axes": list(range(dims)),
    }
    patch, labels = cut(
        distance[None].astype(np.float32),
        (distance < 6).astype(np.int16),
        center=(31.0, 32.0, 31.5)[:dims],
        patch_size=(17, 18, 16)[:dims],
        drawn=draw(seed, dims, **knobs),
    )
    inside, far = patch[0].numpy()[labels.numpy() == 1], patch[0].numpy()[labels.numpy() == 0]
    # The image is the distance itself, so it tells how far a label is off: half a voxel's diagonal at most.
    reach = math.sqrt(dims) / 2 + 0.3
    assert inside.max() < 6 + reach
    assert far.min() > 6 - reach


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1), (2,), (0, 2)])
def test_flips_reverse_image_and_labels(axes):
    pixels, mask = image_and_mask(6, 7, 8)
    knobs = {"center": (2.5, 3.0, 3.5), "patch_size": (6, 7, 8)}
    patch, labels = cut(pixels, mask, **knobs, drawn=drawn(3, axes_flipped=axes))
    assert np.array_equal(patch.numpy(), np.flip(pixels, [axis + 1 for axis in axes]))
    assert np.array_equal(labels.numpy(), np.flip(mask, axes))


def test_each_named_axis_is_flipped_half_the_time_and_no_other():
    flips = [draw(seed, 3, flip_axes=[0, 2]).axes_flipped for seed in range(400)]
    for axis in (0, 2):
        assert abs(sum(axis in flipped for flipped in flips) / 400 - 0.5) < 0.1
    assert {axis for flipped in flips for axis in flipped} == {0, 2}


def test_drawn_rotations_turn_by_no_more_than_asked():
    angles = []
    for seed in range(200):
        matrix = draw(seed, 2, rotation_probability=1.0, rotation_degrees=20.0).matrix
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)
        angles.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
    assert -20.0 < min(angles) < -15.0
    assert 15.0 < max(angles) < 20.0


def test_drawn_rotations_turn_about_every_axis_in_3d():
    matrices = np.array([draw(seed, 3, rotation_probability=1.0, rotation_degrees=20.0).matrix for seed in range(50)])
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0)
    assert (matrices.std(axis=0)[~np.eye(3, dtype=bool)] > 0.1).all()


def test_a_scale_above_one_enlarges_what_is_seen():
    disc = np.square(np.indices((60, 60)) - 29.5).sum(axis=0) < 10**2
    for scale in (0.7, 1.4):
        matrix = draw(scale_probability=1.0, scale_range=[scale, scale]).matrix
        _, labels = cut(
            disc[None].astype(np.float32), disc.astype(np.int16), center=(29.5, 29.5), patch_size=(40, 40),
            drawn=drawn(2, matrix=matrix),
        )  # fmt: skip
        assert labels.sum() == pytest.approx(disc.sum() * scale**2, rel=0.05)


def test_intensities_change_by_their_formulas():
    pixels, _ = image_and_mask(9, 9)
    crop = {"center": (4.0, 4.0), "patch_size": (9, 9)}

    def changed(**parameters) -> np.ndarray:
        return cut(pixels, None, **crop, drawn=drawn(2, **parameters))[0].numpy()

    mean = pixels.mean(axis=(1, 2), keepdims=True)
    low, high = pixels.min(axis=(1, 2), keepdims=True), pixels.max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(changed(brightness=0.3), pixels + np.float32(0.3))
    np.testing.assert_allclose(changed(contrast=1.2), mean + 1.2 * (pixels - mean), atol=1e-5)
    np.testing.assert_allclose(
        changed(gamma=1.4), low + (high - low) * ((pixels - low) / (high - low)) ** 1.4, atol=1e-5
    )
    noise = changed(noise_std=0.5, noise_seed=7) - pixels
    expected = 0.5 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(7))
    np.testing.assert_allclose(noise, expected.numpy(), atol=1e-6)


def test_a_constant_image_stays_finite():
    pixels = np.full((1, 5, 5), 3.0, dtype=np.float32)
    patch, _ = cut(pixels, None, center=(2.0, 2.0), patch_size=(5, 5), drawn=drawn(2, gamma=0.7, contrast=1.2))
    np.testing.assert_allclose(patch.numpy(), pixels)


def result_of(**knobs) -> list[np.ndarray]:
    """What some samples become with every ingredient on, except for the given knobs."""
    pixels, mask = image_and_mask(20, 20)
    augmentation = Augmentation(**(ON | knobs))
    patches = []
    for seed in range(4):
        parameters = augmentation.draw(np.random.default_rng(seed), 2)
        patch, labels = cut(pixels, mask, center=(9.0, 10.0), patch_size=(12, 12), drawn=parameters)
        patches += [patch.numpy(), labels.numpy()]
    return patches


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("flip_axes", [0, 1]),
        ("rotation_degrees", 30.0),
        ("scale_range", [0.7, 1.2]),
        ("brightness", 0.4),
        ("contrast_range", [0.75, 1.5]),
        ("gamma_range", [0.5, 1.5]),
        ("noise_std", 0.2),
        *((f"{name}_probability", 0.0) for name in INGREDIENTS),
    ],
)
def test_every_knob_changes_the_result(knob, value):
    before, after = result_of(), result_of(**{knob: value})
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    # The labels of a sample move with the image and never change with its intensities.
    moves = knob.startswith(("flip", "rotation", "scale"))
    assert any(not np.array_equal(a, b) for a, b in zip(before[1::2], after[1::2], strict=True)) is moves


def test_every_knob_of_the_option_file_was_changed():
    assert set(ON) == set(OFF)
    varied = {
        "flip_axes",
        "rotation_degrees",
        "scale_range",
        "brightness",
        "contrast_range",
        "gamma_range",
        "noise_std",
    }
    assert varied | {f"{name}_probability" for name in INGREDIENTS} == set(OFF)


@pytest.mark.parametrize("name", INGREDIENTS)
def test_turning_an_ingredient_off_does_not_change_the_draws_of_the_others(name):
    def others(parameters: Drawn) -> dict:
        moving = {"rotation": "matrix", "scale": "matrix", "noise": "noise_std"}.get(name, name)
        return {key: value for key, value in vars(parameters).items() if key not in (moving, "matrix")}

    for seed in range(5):
        assert others(draw(seed, **ON)) == others(draw(seed, **(ON | {f"{name}_probability": 0.0})))


@pytest.mark.parametrize("name", INGREDIENTS)
def test_probabilities_are_kept(name):
    neutral = {"matrix": np.eye(2).tolist(), "brightness": 0.0, "contrast": 1.0, "gamma": 1.0, "noise_std": 0.0}
    attribute = {"rotation": "matrix", "scale": "matrix", "noise": "noise_std"}.get(name, name)
    changed = 0
    for seed in range(600):
        value = getattr(draw(seed, **{f"{name}_probability": 0.3}), attribute)
        changed += (value.tolist() if attribute == "matrix" else value) != neutral[attribute]
    assert abs(changed / 600 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 600)


def test_equal_seeds_draw_equal_parameters():
    for seed in (0, 1):
        first, second = (draw(seed, 3, **ON) for _ in range(2))
        assert np.array_equal(first.matrix, second.matrix)
        assert first.noise_seed == second.noise_seed
    assert draw(0, **ON).noise_seed != draw(1, **ON).noise_seed


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("matrix", [np.eye(3), turned(20.0, 3)])
def test_only_the_window_of_a_mapped_volume_is_read(tmp_path, matrix):
    # Two gigabytes that take no room on the disk, being holes.
    volume = np.lib.format.open_memmap(tmp_path / "pixels.npy", mode="w+", dtype=np.float32, shape=(1, 512, 1024, 1024))
    volume[0, 300, 400, 500] = 7.0
    volume.flush()
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    cut(pixels[:, :32], None, center=(8.0, 8.0, 8.0), patch_size=(16, 16, 16), drawn=drawn(3, matrix=matrix))
    before = resident_bytes()
    patch, _ = cut(pixels, None, center=(300.0, 400.0, 500.0), patch_size=(17, 17, 17), drawn=drawn(3, matrix=matrix))
    assert patch[0, 8, 8, 8] == pytest.approx(7.0, abs=1e-3)
    assert resident_bytes() - before < 50e6


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"scale_range": [1.4, 0.7]}, r"augmentation\.scale_range needs 0 < low <= high, got \[1\.4, 0\.7\]"),
        ({"contrast_range": [0.0, 1.0]}, r"augmentation\.contrast_range needs 0 < low"),
        ({"gamma_range": [-1.0, 1.0]}, r"augmentation\.gamma_range needs 0 < low"),
        ({"rotation_probability": 1.5}, r"augmentation\.rotation_probability needs a value in \[0, 1\], got 1\.5"),
        ({"noise_probability": -0.1}, r"augmentation\.noise_probability needs a value in \[0, 1\], got -0\.1"),
        ({"rotation_degrees": -5.0}, r"augmentation\.rotation_degrees needs a value >= 0, got -5\.0"),
        ({"noise_std": -1.0}, r"augmentation\.noise_std needs a value >= 0"),
        ({"flip_axes": [-1]}, r"augmentation\.flip_axes counts the spatial axes from 0, got \[-1\]"),
    ],
)
def test_values_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(**(OFF | knobs))


def test_an_axis_that_the_image_has_not_is_refused():
    augmentation = Augmentation(**(OFF | {"flip_axes": [2]}))
    augmentation.check_dims(3)
    with pytest.raises(UsageError, match=r"needs axes 0\.\.1 for 2D images, got \[2\]"):
        augmentation.check_dims(2)
