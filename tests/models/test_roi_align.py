from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align as theirs
from torchvision.ops.poolers import initLevelMapper

from medexp.models.roi_align import multi_level_roi_align, roi_align

# Inside, with fractions, at all borders, narrower than a place, and the whole image of 80 x 120.
BOXES = torch.tensor(
    [[2.3, 5.1, 33, 50], [0, 0, 7, 9], [60, 100, 80, 120], [10, 10, 10.5, 10.2], [77, 3, 80, 120], [0, 0, 80, 120]]
)


def maps_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()


def expected_in_2d(maps: torch.Tensor, boxes: torch.Tensor, *, size: int, stride: float) -> torch.Tensor:
    columns_first = boxes[:, [1, 0, 3, 2]]
    return theirs(maps[None], [columns_first], size, spatial_scale=1 / stride, sampling_ratio=2, aligned=True)


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("stride", [1, 4])
def test_in_2d_it_gives_what_torchvision_s_gives_values_and_gradient(size, stride):
    ours, other = (maps_of(3, 80 // stride, 120 // stride).requires_grad_() for _ in range(2))
    values, expected = (
        roi_align(ours, BOXES, size=size, stride=stride),
        expected_in_2d(other, BOXES, size=size, stride=stride),
    )
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    weights = maps_of(*values.shape)
    (values * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, other.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_in_3d_a_volume_of_equal_slices_gives_what_torchvision_gives_of_a_slice(axis):
    picture = maps_of(2, 20, 30)
    volume = picture.unsqueeze(1 + axis).expand(*(2, *(20, 30)[:axis], 9, *(20, 30)[axis:])).contiguous()
    low, high = ([*ends[:axis], value, *ends[axis:]] for ends, value in (([2.5, 4.0], 1.0), ([17.0, 26.25], 5.5)))
    values = roi_align(volume, torch.tensor([[*low, *high]]), size=3)
    flat = expected_in_2d(picture, torch.tensor([[2.5, 4.0, 17.0, 26.25]]), size=3, stride=1)
    torch.testing.assert_close(values, flat.unsqueeze(2 + axis).expand_as(values), rtol=1e-4, atol=1e-4)


def test_a_value_that_rises_along_each_axis_is_read_at_the_middle_of_each_bin():
    axes = torch.meshgrid(*(torch.arange(n) + 0.5 for n in (12, 10, 8)), indexing="ij")
    rising = (axes[0] + 10 * axes[1] + 100 * axes[2])[None]
    values = roi_align(rising, torch.tensor([[2.0, 1.0, 2.0, 10.0, 9.0, 4.0]]), size=4)
    places = torch.meshgrid(
        *(torch.tensor(low) + step * (torch.arange(4) + 0.5) for low, step in ((2.0, 2.0), (1.0, 2.0), (2.0, 0.5))),
        indexing="ij",
    )
    torch.testing.assert_close(values[0, 0], places[0] + 10 * places[1] + 100 * places[2])


def test_no_box_gives_nothing_and_is_connected_with_all_levels():
    levels = [maps_of(3, 8, 8, 8).requires_grad_(), maps_of(3, 4, 4, 4).requires_grad_()]
    values = multi_level_roi_align(levels, torch.zeros(0, 6), size=2, strides=[2, 4])
    assert values.shape == (0, 3, 2, 2, 2)
    values.sum().backward()
    assert all(torch.equal(level.grad, torch.zeros_like(level)) for level in levels)


def test_the_level_of_a_box_is_that_of_torchvision_where_the_sizes_are_those_of_the_paper():
    strides = [4, 8, 16, 32]
    sides = torch.tensor([10.0, 100, 111, 113, 223, 225, 300, 447, 449, 2000])
    boxes = torch.stack([torch.zeros(10), torch.zeros(10), sides / 2, sides * 2], dim=1)
    level_of = initLevelMapper(2, 5, canonical_scale=224, canonical_level=4)([boxes])
    levels = [torch.full((1, 2, 2), float(number)) for number in range(4)]
    read = multi_level_roi_align(levels, boxes, size=14, strides=strides)
    assert read[:, 0, 0, 0].tolist() == level_of.tolist()


def test_bf16_features_are_read_in_fp32():
    maps = maps_of(2, 16, 320).bfloat16()
    box = torch.tensor([[1.0, 257.0, 9.0, 301.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = roi_align(maps, box, size=4)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected_in_2d(maps.float(), box, size=4, stride=1), rtol=1e-4, atol=1e-4)
