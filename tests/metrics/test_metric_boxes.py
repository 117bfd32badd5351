from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.box_utils import box_iou as monai_iou
from torchvision.ops import box_iou as torchvision_iou

from medexp.metrics._boxes import box_iou


def boxes_of(random: np.random.Generator, n: int, dims: int) -> np.ndarray:
    low = random.uniform(0, 20, size=(n, dims))
    return np.concatenate([low, low + random.uniform(0.5, 10, size=(n, dims))], axis=1)


@pytest.mark.parametrize(("dims", "oracle"), [(2, torchvision_iou), (2, monai_iou), (3, monai_iou)])
def test_overlap_is_that_of_torchvision_and_monai(dims, oracle):
    random = np.random.default_rng(dims)
    first, second = boxes_of(random, 30, dims), boxes_of(random, 20, dims)
    expected = oracle(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert (expected > 0).sum() > 10
    assert box_iou(first, second) == pytest.approx(expected, abs=1e-5)


def test_boxes_without_volume_overlap_nothing():
    points, boxes = np.array([[1.0, 1.0, 1.0, 1.0]]), np.array([[0.0, 0.0, 4.0, 4.0]])
    assert box_iou(points, points).tolist() == [[0.0]]
    assert box_iou(points, boxes).tolist() == [[0.0]]
    assert box_iou(boxes, boxes).tolist() == [[1.0]]


def test_none_on_either_side_is_an_empty_table():
    none, boxes = np.zeros((0, 6)), np.ones((3, 6))
    assert box_iou(none, boxes).shape == (0, 3)
    assert box_iou(boxes, none).shape == (3, 0)
