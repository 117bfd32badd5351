from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medexp.models.adapter import DenseModel
from medexp.models.cost import cost_of, operations
from medexp.models.fitting import nearest_fit
from medexp.models.receptive_field import receptive_field


def dense(*layers: nn.Module, dims: int = 2, channels: int = 3) -> DenseModel:
    return DenseModel(nn.Sequential(*layers), heads={"semantic": channels}, spatial_dims=dims)


def test_operations_of_a_convolution_are_two_for_each_product():
    model = dense(nn.Conv3d(2, 3, 3, padding=1), dims=3)
    cost = cost_of(model, in_channels=2, size=(6, 5, 4), batch_size=7)
    assert cost.gflops * 1e9 == 2 * 2 * 3 * 27 * 6 * 5 * 4
    assert operations(model, torch.zeros(1, 2, 6, 5, 4)) == cost.gflops * 1e9


def test_parameters_and_what_is_trained_of_them_are_counted():
    model = dense(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    model.network[1].requires_grad_(False)
    cost = cost_of(model, in_channels=2, size=(4, 4), batch_size=2)
    assert (cost.parameters, cost.trained) == (2 * 3 + 3 + 3 + 3, 2 * 3 + 3)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_step_keeps_each_map_that_the_backward_pass_reads_once(batch_size):
    # The first convolution keeps the image, the second and the ReLU keep the same map, which the ReLU wrote in place.
    model = dense(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 3, 1))
    cost = cost_of(model, in_channels=2, size=(16, 8), batch_size=batch_size)
    kept = 4 * batch_size * 16 * 8 * (2 + 8)
    assert cost.activations_mb * 1e6 == pytest.approx(kept)
    assert cost.step_mb * 1e6 == pytest.approx(kept + 16 * cost.parameters)


def test_counting_leaves_the_model_as_it_was():
    model = dense(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost_of(model, in_channels=2, size=(4, 4), batch_size=2)
    receptive_field(model, in_channels=2, size=(4, 4))
    nearest_fit(model, in_channels=2, size=(4, 4))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.device.type == "cpu" and parameter.grad is None for parameter in model.parameters())


def field(model: nn.Module, *size: int) -> list[tuple[int, bool]]:
    return [(axis.voxels, axis.whole) for axis in receptive_field(model, in_channels=1, size=size)]


def test_the_field_of_stacked_convolutions_is_the_sum_of_what_each_adds():
    layers = [nn.Conv2d(1, 4, (3, 5), padding=(1, 2)), nn.InstanceNorm2d(4, affine=True), nn.PReLU()]
    model = dense(*layers, nn.Conv2d(4, 3, 3, padding=2, dilation=2))
    assert field(model, 32, 32) == [(1 + 2 + 4, False), (1 + 4 + 4, False)]


def test_a_field_that_ends_at_the_patch_is_told():
    model = dense(nn.Conv3d(1, 3, 9, padding=4), dims=3)
    assert field(model, 16, 5, 4) == [(9, False), (5, True), (4, True)]


def test_pooling_and_enlarging_widen_the_field_by_whole_places():
    # Each voxel sees its own place of two voxels and, through the convolution, one place on either side.
    layers = [nn.MaxPool2d(2), nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(2, 3, 2, 2)]
    assert field(dense(*layers), 16, 16) == [(6, False), (6, False)]


class Attention(nn.Module):
    """Every voxel asks every other."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(1, 4)
        self.attend = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, images):
        tokens = self.project(images.flatten(2).transpose(1, 2))
        return (
            self.attend(tokens, tokens, tokens, need_weights=False)[0][..., :3]
            .transpose(1, 2)
            .unflatten(2, images.shape[2:])
        )


def test_attention_sees_the_whole_patch():
    assert field(DenseModel(Attention(), heads={"semantic": 3}, spatial_dims=2), 6, 4) == [(6, True), (4, True)]


def test_a_deep_network_s_smallest_contributions_are_not_lost():
    layers = [nn.Conv2d(4 if n else 1, 4, 3, padding=1) for n in range(60)]
    assert field(dense(*layers, nn.Conv2d(4, 3, 1)), 140, 130) == [(121, False), (121, False)]


class Shrinks(nn.Module):
    """Passes patches whose sides its strides divide."""

    def __init__(self, *strides: int, least: int = 1):
        super().__init__()
        self.strides, self.least = strides, least
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        size = images.shape[2:]
        if any(n % stride for n, stride in zip(size, self.strides, strict=True)) or math.prod(size) < self.least:
            raise ValueError("does not fit")
        return {"semantic": self.scale * images}


@pytest.mark.parametrize(
    ("strides", "least", "size", "nearest"),
    [
        ((8, 8), 1, (64, 32), (64, 32)),
        ((8, 4), 1, (61, 33), (64, 32)),
        ((8, 1), 1, (59, 33), (56, 33)),
        ((1, 16, 16), 1, (5, 23, 24), (5, 16, 32)),
        ((12, 1), 1, (30, 30), (36, 30)),
        ((32, 32), 2048, (20, 20), (32, 64)),
        ((7, 7), 1, (25, 25), None),
    ],
)
def test_the_nearest_patch_that_passes_is_found_axis_by_axis(strides, least, size, nearest):
    assert nearest_fit(Shrinks(*strides, least=least), in_channels=1, size=size) == nearest


def test_maps_of_another_size_do_not_pass_where_they_must_be_dense():
    model = dense(nn.Conv2d(1, 3, 3))
    assert nearest_fit(model, in_channels=1, size=(8, 8)) is None
    assert nearest_fit(model, in_channels=1, size=(8, 8), dense=False) == (8, 8)


def test_a_network_that_shares_modules_stays_whole():
    shared = nn.Conv2d(1, 1, 1)
    model = DenseModel(nn.Sequential(shared, nn.Sequential(shared)), heads={"semantic": 1}, spatial_dims=2)
    assert nearest_fit(model, in_channels=1, size=(4, 4)) == (4, 4)
    assert model(torch.zeros(1, 1, 4, 4))["semantic"].device.type == "cpu"
