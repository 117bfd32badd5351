"""Kernel shapes against scikit-image's, and what masked convolutions promise through training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage import morphology
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.stencils import MaskedConv2d, MaskedConv3d, convolution, stencil

torch.set_num_threads(1)


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_round_and_pointed_shapes_are_those_of_scikit_image(radius: int) -> None:
    side = 2 * radius + 1
    for name, expected in (("disk", morphology.disk(radius)), ("diamond", morphology.diamond(radius))):
        assert np.array_equal(stencil(name, (side, side)).numpy(), expected.astype(bool)), name
    solids = (("sphere", morphology.ball(radius)), ("octahedron", morphology.octahedron(radius)))
    for name, expected in solids:
        assert np.array_equal(stencil(name, (side,) * 3).numpy(), expected.astype(bool)), name


@pytest.mark.parametrize("side", [3, 5, 7, 11])
def test_polygons_hold_the_voxels_whose_middles_lie_inside_their_corners(side: int) -> None:
    angles = math.tau * np.arange(5) / 5
    pentagon = np.stack([-np.cos(angles), np.sin(angles)], axis=1)
    triangle = np.array([[-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
    for name, corners in (("pentagon", pentagon), ("triangle", triangle)):
        low, high = corners.min(axis=0), corners.max(axis=0)
        corners = side * (corners - low) / (high - low)  # the box's own edges lie at 0 and at the side
        middles = np.moveaxis(np.indices((side, side)), 0, -1) + 0.5
        edge, offset = np.roll(corners, -1, axis=0) - corners, middles[:, :, None] - corners
        inside = (edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0] <= 1e-9).all(axis=-1) | (
            (edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0] >= -1e-9).all(axis=-1)
        )
        assert np.array_equal(stencil(name, (side, side)).numpy(), inside), name


def test_a_cross_has_the_voxels_on_the_axes_and_a_solid_of_a_plane_shape_repeats_it() -> None:
    assert int(stencil("cross", (5, 3)).sum()) == 5 + 3 - 1
    assert int(stencil("cross", (5, 3, 7)).sum()) == 5 + 3 + 7 - 2
    for solid, plane in (("prism", "triangle"), ("pentagonal_prism", "pentagon"), ("cube", "square")):
        assert all(torch.equal(layer, stencil(plane, (5, 7))) for layer in stencil(solid, (3, 5, 7)))


@pytest.mark.parametrize(
    ("shape", "size", "told"),
    [
        ("dsik", (3, 3), "did you mean disk"),
        ("sphere", (3, 3), "in 2D"),
        ([[1, 1], [1, 1]], (3, 3), "lists (2, 2) voxels"),
        ([[1, 1], [1]], (3, 3), "a nested list"),
        ([[0, 0, 0]], (1, 3), "at least one 1"),
        ([[0, 2, 0]], (1, 3), "needs 0 and 1"),
    ],
)
def test_a_shape_that_there_is_not_is_refused(shape, size: tuple[int, ...], told: str) -> None:
    with pytest.raises(UsageError) as error:
        stencil(shape, size)
    assert told in str(error.value)
    assert "model.kernel_shape" in str(error.value)


@pytest.mark.parametrize("size", [(3, 3), (5, 3), (3, 3, 3), (1, 3, 5)])
def test_a_whole_box_is_torchs_convolution_exactly(size: tuple[int, ...]) -> None:
    plain_class, masked_class = ((nn.Conv2d, MaskedConv2d), (nn.Conv3d, MaskedConv3d))[len(size) - 2]
    torch.manual_seed(0)
    plain = plain_class(2, 3, size, padding=tuple(k // 2 for k in size))
    torch.manual_seed(0)
    masked = masked_class(2, 3, stencil=torch.ones(size, dtype=torch.bool), bias=True)
    made = convolution(2, 3, kernel_size=size, shape="square", bias=True)
    assert type(made) is plain_class
    assert torch.equal(plain.weight, masked.weight)
    assert torch.equal(plain.bias, masked.bias)
    images = torch.randn(1, 2, *[6] * len(size))
    made.load_state_dict(plain.state_dict())
    assert torch.equal(plain(images), masked(images))
    assert torch.equal(plain(images), made(images))


@pytest.mark.parametrize("size", [(5, 5), (3, 3, 3)])
def test_it_is_the_convolution_whose_other_weights_are_zero(size: tuple[int, ...]) -> None:
    masked = convolution(2, 3, kernel_size=size, shape="cross", bias=True)
    images = torch.randn(1, 2, *[6] * len(size))
    plain = {4: nn.functional.conv2d, 5: nn.functional.conv3d}[images.ndim]
    weight = masked.weight * stencil("cross", size)
    expected = plain(images, weight, masked.bias, padding=tuple(k // 2 for k in size))
    assert torch.equal(masked(images), expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda weights: torch.optim.AdamW(weights, lr=0.1, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
@pytest.mark.parametrize(("size", "shape"), [((5, 5), "pentagon"), ((3, 3, 3), "octahedron")])
def test_weights_off_the_stencil_stay_zero_and_get_no_gradient(size, shape, optimizer, autocast: bool) -> None:
    layer = convolution(1, 2, kernel_size=size, shape=shape, bias=True)
    off = ~stencil(shape, size)
    before, steps = layer.weight.detach().clone(), optimizer(layer.parameters())
    for _ in range(3):
        steps.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            maps = layer(torch.randn(2, 1, *[6] * len(size)))
        assert maps.dtype == (torch.bfloat16 if autocast else torch.float32)
        maps.float().square().mean().backward()
        assert not layer.weight.grad[..., off].any()
        assert bool(layer.weight.grad[..., ~off].all())
        steps.step()
    assert not layer.weight[..., off].any()
    assert bool((layer.weight != before)[..., ~off].all())


def test_weights_of_a_whole_box_can_be_loaded_and_those_off_the_stencil_become_zero() -> None:
    plain, masked = nn.Conv2d(1, 2, 3, padding=1), convolution(1, 2, kernel_size=(3, 3), shape="cross", bias=True)
    stored = plain.state_dict()
    masked.load_state_dict(stored)
    inside = stencil("cross", (3, 3))
    assert torch.equal(masked.weight, plain.weight * inside)
    assert bool(plain.weight[..., ~inside].all()), "what was loaded from stays as it was"
    masked.load_state_dict(masked.state_dict())
    assert list(masked.state_dict()) == ["weight", "bias"]


def test_the_first_weights_have_the_variance_of_their_number() -> None:
    torch.manual_seed(0)
    layer = convolution(64, 64, kernel_size=(7, 7), shape="cross", bias=True)
    active = layer.weight[..., stencil("cross", (7, 7))].detach()
    bound = 1 / math.sqrt(64 * 13)  # torch's own for a fan-in of 13 weights in 64 channels
    assert float(active.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(active.var()) == pytest.approx(bound**2 / 3, rel=0.02)
    assert float(layer.bias.detach().abs().max()) <= bound
