from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from scipy import ndimage

from medexp.core.resample import resize_argmax, resize_linear, resize_nearest, resize_smooth

SHAPES = [((9,), (14,)), ((7, 10), (5, 23)), ((8, 6), (8, 3)), ((6, 5, 9), (11, 5, 4)), ((3, 4, 2), (1, 9, 5))]


def zoomed(array: np.ndarray, shape: tuple[int, ...], *, order: int) -> np.ndarray:
    """Interpolation over the same field of view: scipy's `grid_mode` is the half-voxel convention."""
    factors = [want / have for want, have in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)


@pytest.mark.parametrize(("have", "want"), SHAPES)
def test_linear_agrees_with_scipy(have, want):
    maps = np.random.default_rng(0).normal(size=(2, *have))
    resized = resize_linear(torch.from_numpy(maps), want)
    expected = np.stack([zoomed(channel, want, order=1) for channel in maps])
    assert resized.dtype == torch.float32
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("have", "want"), SHAPES)
def test_nearest_agrees_with_scipy(have, want):
    labels = np.random.default_rng(0).integers(0, 30_000, size=(1, *have), dtype=np.int16)
    resized = resize_nearest(torch.from_numpy(labels), want)
    assert resized.dtype == torch.int16
    assert np.array_equal(resized[0].numpy(), zoomed(labels[0], want, order=0))


def test_nearest_is_exact_at_every_pair_of_sizes():
    for have in range(1, 60):
        ramp = torch.arange(have)[None]
        for want in range(1, 60):
            exact = [(2 * i + 1) * have // (2 * want) for i in range(want)]
            assert resize_nearest(ramp, (want,))[0].tolist() == exact


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_nearest_keeps_the_type_of_labels(dtype):
    labels = torch.tensor([[[0, 1], [1, 0]]]).to(dtype)
    resized = resize_nearest(labels, (4, 4))
    assert resized.dtype == dtype
    assert torch.equal(resized, labels.repeat_interleave(2, 1).repeat_interleave(2, 2))


def test_the_same_size_keeps_every_value():
    maps = torch.randn(2, 3, 4)
    assert torch.equal(resize_linear(maps, (3, 4)), maps)
    assert torch.equal(resize_nearest(maps, (3, 4)), maps)


def test_linear_reads_half_precision_and_whole_numbers_as_fp32():
    ramp = torch.arange(4)[None]
    for dtype in (torch.bfloat16, torch.int32):
        assert torch.equal(resize_linear(ramp.to(dtype), (8,)), resize_linear(ramp.float(), (8,)))


PIL_KERNELS = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}


def resized_by_pil(pixels: np.ndarray, shape: tuple[int, int], kernel: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize(shape[::-1], kernel))


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize(
    ("have", "want"),
    [
        ((7, 10), (5, 23)),
        ((30, 41), (11, 13)),
        ((8, 6), (8, 3)),
        ((4, 5), (9, 9)),
        ((10, 1), (23, 1)),
        ((1, 9), (1, 4)),
    ],
)
def test_smooth_agrees_with_pillow(have, want, interpolation):
    maps = np.random.default_rng(0).normal(size=(2, *have)).astype(np.float32)
    resized = resize_smooth(torch.from_numpy(maps), want, interpolation)
    expected = np.stack([resized_by_pil(channel, want, PIL_KERNELS[interpolation]) for channel in maps])
    np.testing.assert_allclose(resized.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_smooth_in_3d_is_what_pillow_does_along_each_axis(axis, interpolation):
    volume = np.random.default_rng(0).normal(size=(9, 12, 7)).astype(np.float32)
    for want in (4, 20):
        shape = tuple(want if i == axis else n for i, n in enumerate(volume.shape))
        ours = resize_smooth(torch.from_numpy(volume)[None], shape, interpolation)[0].numpy()
        planes = np.moveaxis(volume, axis, 0)
        flat = resized_by_pil(planes.reshape(len(planes), -1), (want, planes[0].size), PIL_KERNELS[interpolation])
        expected = np.moveaxis(flat.reshape(want, *planes.shape[1:]), 0, axis)
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_smooth_enlarges_linearly_as_scipy():
    maps = np.random.default_rng(0).normal(size=(1, 6, 5, 9))
    resized = resize_smooth(torch.from_numpy(maps), (11, 5, 20), "linear")
    np.testing.assert_allclose(resized[0].numpy(), zoomed(maps[0], (11, 5, 20), order=1), atol=1e-5)


def wave(shape: tuple[int, ...]) -> np.ndarray:
    """A smooth function over the unit cube, at the voxels' centres."""
    places = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"))
    return np.sin(2 * np.pi * places[0] + 1) * np.cos(3 * np.pi * places[1]) + places[2] ** 2


def test_cubic_is_nearer_to_the_truth_than_linear_and_near_to_simpleitk_s_spline():
    have, want = (16, 18, 20), (29, 31, 27)
    inner = (slice(4, -4),) * 3
    volume = wave(have).astype(np.float32)
    linear, cubic = (
        resize_smooth(torch.from_numpy(volume)[None], want, kind)[0].numpy()[inner] for kind in ("linear", "cubic")
    )
    image = sitk.GetImageFromArray(volume)
    scale = [n / m for n, m in zip(have[::-1], want[::-1], strict=True)]
    grid = {"size": want[::-1], "outputOrigin": [(s - 1) / 2 for s in scale], "outputSpacing": scale}
    spline = sitk.GetArrayFromImage(
        sitk.Resample(image, interpolator=sitk.sitkBSpline, outputDirection=image.GetDirection(), **grid)
    )[inner]
    truth = wave(want)[inner]
    errors = {name: np.abs(values - truth).max() for name, values in (("linear", linear), ("cubic", cubic))}
    assert errors["cubic"] < errors["linear"] / 5
    assert np.abs(cubic - spline).max() < errors["linear"] / 5


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_smooth_keeps_a_constant_and_averages_noise_that_a_coarser_grid_cannot_hold(interpolation):
    constant = torch.full((1, 12, 9), 7.25)
    for shape in ((5, 4), (30, 31)):
        torch.testing.assert_close(resize_smooth(constant, shape, interpolation), torch.full((1, *shape), 7.25))
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 60, 60, 60)))
    assert float(resize_linear(noise, (20, 20, 20)).std()) > 0.9
    assert float(resize_smooth(noise, (20, 20, 20), interpolation).std()) < 0.2


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_smooth_does_not_depend_on_the_number_of_threads(interpolation):
    volume = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 40, 41, 42)).astype(np.float32))
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append([resize_smooth(volume, shape, interpolation) for shape in ((20, 30, 10), (50, 60, 45))])
    torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_smooth_keeps_the_values_of_the_same_size():
    maps = torch.randn(2, 3, 4)
    assert torch.equal(resize_smooth(maps, (3, 4), "cubic"), maps)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64"])
def test_argmax_takes_the_label_of_which_pillow_finds_the_largest_share(interpolation, dtype):
    random = np.random.default_rng(0)
    ids = np.array([0, 3, 200])
    labels = ids[random.integers(0, 3, size=(14, 11))].astype(dtype)
    for shape in ((9, 20), (5, 4)):
        ours = resize_argmax(torch.from_numpy(labels)[None], shape, interpolation)
        kernel = PIL_KERNELS[interpolation]
        shares = np.stack([resized_by_pil((labels == label).astype(np.float32), shape, kernel) for label in ids])
        clear = np.ptp(np.sort(shares, axis=0)[-2:], axis=0) > 1e-5
        assert clear.mean() > 0.9
        assert ours.numpy().dtype == np.dtype(dtype)
        assert np.array_equal(ours[0].numpy()[clear], ids[shares.argmax(axis=0)][clear])


def test_argmax_of_two_labels_alike_is_the_lower_and_the_same_size_is_left_alone():
    labels = torch.tensor([[4, 2, 2, 4]])
    assert resize_argmax(torch.tensor([[[4, 4], [2, 2]]]), (1, 2), "linear").tolist() == [[[2, 2]]]
    assert torch.equal(resize_argmax(labels, (4,), "cubic"), labels)
