from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medexp.core.geometry import Placement
from medexp.tasks._masks_in_boxes import instances_of_masks, paste

MODES = {2: "bilinear", 3: "trilinear"}


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("low", "shape"), [((3, 5), (24, 30)), ((3, 5, 1), (24, 30, 20))])
def test_a_mask_is_what_torch_interpolates_with_zeros_around_it(low, shape):
    dims, side, times = len(shape), 4, 3
    mask = noise(*[side] * dims)
    box = np.array([*low, *(first + side * times for first in low)], dtype=float)
    inside, values = paste(mask, box, Placement.identity(shape))
    around = F.interpolate(F.pad(mask, [1] * 2 * dims)[None, None], scale_factor=times, mode=MODES[dims])[0, 0]
    expected = around[(slice(times, -times),) * dims]
    assert inside == tuple(slice(first, first + side * times) for first in low)
    np.testing.assert_allclose(values, expected.numpy(), atol=1e-6)


def test_a_box_of_the_mask_s_own_size_keeps_its_values_and_is_cut_at_the_border():
    mask = noise(6, 5)
    inside, values = paste(mask, np.array([-2.0, 7.0, 4.0, 12.0]), Placement.identity((20, 10)))
    assert inside == (slice(0, 4), slice(7, 10))
    np.testing.assert_allclose(values, mask[2:, :3].numpy(), atol=1e-6)


def test_a_box_is_not_rounded_and_voxels_are_inside_by_their_centre():
    inside, values = paste(torch.ones(1, 1), np.array([2.4, 2.6, 5.6, 5.4]), Placement.identity((9, 9)))
    assert inside == (slice(2, 6), slice(3, 5))
    rows, columns = (
        (np.arange(a, b) + 0.5 - low) / (high - low) for a, b, low, high in ((2, 6, 2.4, 5.6), (3, 5, 2.6, 5.4))
    )
    np.testing.assert_allclose(values, np.outer(1 - abs(rows - 0.5), 1 - abs(columns - 0.5)), atol=1e-6)


def test_a_box_without_a_voxel_s_centre_or_outside_gives_nothing():
    for box in ([2.6, 2.0, 3.4, 5.0], [30.0, 2.0, 34.0, 5.0], [3.0, 2.0, 3.0, 5.0]):
        inside, values = paste(torch.ones(4, 4), np.array(box), Placement.identity((9, 9)))
        assert values.size == 0
        assert np.zeros((9, 9))[inside].shape == values.shape


def test_on_a_finer_image_a_mask_lies_where_its_box_lies():
    placement = Placement((48, 60, 30), (2, 0, 1), (1,), (10, 24, 20))
    box = np.array([2.0, 4.0, 5.0, 8.0, 16.0, 15.0])
    instances, kept = instances_of_masks(
        torch.ones(1, 8, 8, 8), box[None], np.array([0.9]), placement, threshold=0.01, least_visible=0.0
    )
    scale = np.array([3, 2, 3])
    first, stop = ((ends * scale).astype(int) for ends in (box[:3], box[3:]))
    expected = np.zeros((30, 48, 60), dtype=bool)
    expected[tuple(slice(*ends) for ends in zip(first, stop, strict=True))] = True
    assert kept.tolist() == [0]
    assert np.array_equal(instances > 0, placement.unorient(expected))


def test_many_objects_need_no_more_memory_than_a_few_images():
    shape, count = (64, 64, 64), 60
    low = np.random.default_rng(0).uniform(0, 50, size=(count, 3))
    boxes, scores = np.concatenate([low, low + 12], axis=1), np.linspace(1, 0.5, count)
    tracemalloc.start()
    instances, kept = instances_of_masks(
        torch.ones(count, 14, 14, 14), boxes, scores, Placement.identity(shape), threshold=0.5, least_visible=0.3
    )
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert instances.max() == len(kept) > 20
    assert peak < 3 * instances.nbytes
