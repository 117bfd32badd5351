"""Offsets and the loss of their gradients against loops and the published code's kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.tasks.representations.hover import Hover


def noisy_instances(shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 4, [size // 2 for size in shape]), np.ones([2] * len(shape))).astype(np.int32) * 3


def test_offsets_are_shares_of_the_largest_on_their_side_of_the_centre_of_mass():
    instances = noisy_instances((12, 14))
    maps = Hover(spatial_dims=2, weight=1.0, gradient_weight=1.0).targets(instances)["hover"].numpy()
    assert not maps[:, instances == 0].any()
    for number in np.unique(instances[instances > 0]):
        centre = ndimage.center_of_mass(instances == number)
        for axis, places in enumerate(np.nonzero(instances == number)):
            offset = places - centre[axis]
            largest = np.where(offset > 0, offset.max(), -offset.min())
            assert maps[axis][instances == number] == pytest.approx(offset / largest, abs=1e-6)


def test_an_object_one_voxel_wide_has_no_offset_across():
    instances = np.zeros((5, 6), np.int32)
    instances[2, 1:4] = 1
    maps = Hover(spatial_dims=2, weight=1.0, gradient_weight=1.0).targets(instances)["hover"]
    assert maps[0].tolist() == torch.zeros(5, 6).tolist()
    assert maps[1, 2].tolist() == [0, -1, 0, 1, 0, 0]


def test_terms_are_those_of_the_published_code_where_all_is_annotated():
    """Kernels x / (x^2 + y^2) of 5 x 5; the mean over voxels of objects and both maps."""
    instances = noisy_instances((14, 12))
    representation = Hover(spatial_dims=2, weight=1.0, gradient_weight=2.0)
    targets = {name: each[None] for name, each in representation.targets(instances).items()}
    said = np.random.default_rng(1).normal(size=(1, 2, 14, 12))
    rows, columns = np.mgrid[-2:3, -2:3].astype(float)
    squared = rows**2 + columns**2
    squared[2, 2] = 1
    steep = 0.0
    for axis, kernel in enumerate((rows / squared, columns / squared)):
        said_slope, true_slope = (
            ndimage.correlate(each, kernel, mode="constant")
            for each in (said[0, axis], targets["hover"][0, axis].numpy())
        )
        steep += ((said_slope - true_slope) ** 2)[instances > 0].sum() / (instances > 0).sum() / 2
    terms = representation.loss(
        {"hover": [torch.from_numpy(said)]}, targets, torch.ones(1, 1, 14, 12, dtype=torch.bool)
    )
    plain = ((said - targets["hover"].numpy()) ** 2).mean()
    assert list(terms) == ["hover_mse", "hover_gradient"]
    assert [term.item() for term in terms.values()] == pytest.approx([plain, 2 * steep], rel=1e-5)


@pytest.mark.parametrize(("axis", "expected"), [(0, 12.0**2 / 2), (1, 0.0)])
def test_a_slope_counts_only_along_its_own_axis(axis, expected):
    inside = torch.zeros(1, 1, 9, 9)
    inside[0, 0, 4, 4] = 1
    said = torch.zeros(1, 2, 9, 9)
    said[0, 0] = torch.meshgrid(torch.arange(9.0), torch.arange(9.0), indexing="ij")[axis]
    terms = Hover(spatial_dims=2, weight=1.0, gradient_weight=1.0).loss(
        {"hover": [said]},
        {"hover": torch.zeros(1, 2, 9, 9), "hover_inside": inside},
        torch.ones(1, 1, 9, 9, dtype=torch.bool),
    )
    assert terms["hover_gradient"].item() == pytest.approx(expected, abs=1e-3)


def test_volumes_are_refused():
    with pytest.raises(UsageError, match="hover needs images of 2 axes, got spatial_dims=3; for volumes choose"):
        Hover(spatial_dims=3, weight=1.0, gradient_weight=1.0)
