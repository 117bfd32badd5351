from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medexp.core.resample import resize_linear, resize_nearest

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
