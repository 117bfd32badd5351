from __future__ import annotations

import functools

import pytest
import torch
from monai.networks.nets import BasicUNetPlusPlus, SegResNetDS, UNet
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DEEP_SUPERVISION, DenseModel, build_model, fit_size

torch.set_num_threads(1)
HEADS = {"semantic": 3, "distance": 1, "flow": 2}
SMALL_UNET = {"channels": (4, 8), "strides": (2,), "num_res_units": 0}


def built(factory, *, dims: int = 2, heads=None) -> nn.Module:
    return build_model(factory, spatial_dims=dims, in_channels=2, heads=heads or HEADS, image_size=(16,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_are_dealt_out_to_heads_by_name_in_order(dims):
    model = built(functools.partial(UNet, **SMALL_UNET), dims=dims).eval()
    images = torch.randn(1, 2, *[8] * dims)
    outputs = model(images)
    stacked = model.network(images)
    assert list(outputs) == ["semantic", "distance", "flow"]
    assert {head: maps.shape[1] for head, maps in outputs.items()} == HEADS
    assert torch.equal(torch.cat(list(outputs.values()), dim=1), stacked)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_network_that_lists_its_levels_gives_the_coarser_ones_in_training_only(dims):
    factory = functools.partial(SegResNetDS, init_filters=4, blocks_down=(1, 1, 1, 1), dsdepth=3, norm="INSTANCE")
    model = built(factory, dims=dims)
    images = torch.randn(1, 2, *[16] * dims)
    model.train()
    outputs = model(images)
    levels = outputs.pop(DEEP_SUPERVISION)
    assert list(outputs) == list(HEADS)
    assert outputs["semantic"].shape[2:] == images.shape[2:]
    assert [tuple(level["flow"].shape[2:]) for level in levels] == [(8,) * dims, (4,) * dims]
    assert all({head: maps.shape[1] for head, maps in level.items()} == HEADS for level in levels)
    assert list(model.eval()(images)) == list(HEADS)


def test_a_network_that_lists_its_levels_in_evaluation_too_gives_one_map_there():
    factory = functools.partial(BasicUNetPlusPlus, features=(4, 4, 4, 4, 4, 4), deep_supervision=True)
    model = built(factory)
    images = torch.randn(1, 2, 32, 32)
    assert isinstance(model.network.eval()(images), list)
    assert list(model.eval()(images)) == list(HEADS)
    assert len(model.train()(images)[DEEP_SUPERVISION]) == 3


class Levels(nn.Module):
    """Gives its maps in a habit of one's choice; the finest map is all ones, the next all twos."""

    def __init__(self, habit, dims):
        super().__init__()
        self.habit, self.dims = habit, dims

    def forward(self, images):
        finest = torch.ones(images.shape[0], 6, *images.shape[2:])
        return {
            "map": lambda: finest,
            "stacked": lambda: torch.stack([finest, 2 * finest, 3 * finest], dim=1),
            "listed": lambda: [finest, 2 * finest, 3 * finest],
            "tuple": lambda: (finest, 2 * finest, 3 * finest),
        }[self.habit]()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("habit", ["stacked", "listed", "tuple"])
def test_every_habit_of_deep_supervision_ends_in_one_form_finest_first(habit, dims):
    model = DenseModel(Levels(habit, dims), heads=HEADS, spatial_dims=dims).train()
    outputs = model(torch.zeros(2, 1, *[4] * dims))
    assert (outputs["semantic"] == 1).all()
    assert [level["semantic"].unique().item() for level in outputs[DEEP_SUPERVISION]] == [2.0, 3.0]
    assert outputs["semantic"].shape == (2, 3, *[4] * dims)
    assert DEEP_SUPERVISION not in model.eval()(torch.zeros(2, 1, *[4] * dims))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_single_map_has_no_deep_supervision(dims):
    model = DenseModel(Levels("map", dims), heads=HEADS, spatial_dims=dims).train()
    assert list(model(torch.zeros(2, 1, *[4] * dims))) == list(HEADS)


class Contract(nn.Module):
    """A network of one's own that knows heads."""

    def __init__(self, *, in_channels, heads, img_size, width):
        super().__init__()
        self.arguments = (in_channels, heads, img_size, width)

    def forward(self, images):
        return {head: images.new_zeros(images.shape[0], n, *images.shape[2:]) for head, n in self.arguments[1].items()}


def test_a_factory_that_takes_heads_is_used_as_it_is():
    model = built(functools.partial(Contract, width=4))
    assert isinstance(model, Contract)
    assert model.arguments == (2, HEADS, (16, 16), 4)


def test_a_class_without_bound_knobs_is_a_factory_too():
    model = build_model(
        lambda *, in_channels, out_channels: nn.Conv2d(in_channels, out_channels, 1),
        spatial_dims=2, in_channels=2, heads=HEADS, image_size=(8, 8),
    )  # fmt: skip
    assert model(torch.zeros(1, 2, 8, 8))["flow"].shape == (1, 2, 8, 8)


def test_a_size_of_ones_own_stays():
    assert built(functools.partial(Contract, width=4, img_size=(32, 32))).arguments[2] == (32, 32)


def test_a_factory_without_heads_and_out_channels_is_refused():
    with pytest.raises(UsageError, match=r"takes neither `heads` nor `out_channels`"):
        built(functools.partial(nn.Linear, in_features=3, out_features=3))


def test_a_wrong_knob_is_told_with_the_nearest_one():
    with pytest.raises(UsageError, match=r"UNet has no knob chanels; did you mean channels\?"):
        built(functools.partial(UNet, **SMALL_UNET, chanels=(1, 2)))


@pytest.mark.parametrize("name", ["spatial_dims", "in_channels", "out_channels", "heads"])
def test_what_follows_from_the_data_cannot_be_set(name):
    with pytest.raises(UsageError, match=rf"model\.{name} follows from dataset and task"):
        built(functools.partial(UNet, **SMALL_UNET, **{name: 2}))


def test_a_refused_value_is_told_with_the_model():
    with pytest.raises(UsageError, match=r"model monai\.networks\.nets\.unet\.UNet cannot be built: .*strides"):
        built(functools.partial(UNet, channels=(4, 8, 16), strides=(2,)))


def test_fit_size_passes_a_patch_that_fits():
    fit_size(built(functools.partial(UNet, **SMALL_UNET)), torch.zeros(1, 2, 8, 8), dense=True)


def test_fit_size_tells_a_patch_that_does_not_pass_the_network():
    model = built(functools.partial(UNet, channels=(4, 8, 8), strides=(2, 2), num_res_units=0, norm="BATCH"))
    with pytest.raises(
        UsageError, match=r"a patch of \(10, 10\) does not pass the network: .*choose dataset\.patch_size"
    ):
        fit_size(model, torch.zeros(1, 2, 10, 10), dense=True)


def test_fit_size_tells_a_patch_that_becomes_too_small_to_normalise():
    model = built(functools.partial(UNet, channels=(4, 8, 8), strides=(2, 2), num_res_units=0, norm="INSTANCE"))
    with pytest.raises(UsageError, match=r"a patch of \(4, 4\) does not pass the network"):
        fit_size(model, torch.zeros(1, 2, 4, 4), dense=True)


def test_fit_size_tells_a_map_of_another_size():
    model = DenseModel(nn.Conv2d(2, 6, 3), heads=HEADS, spatial_dims=2)
    with pytest.raises(UsageError, match=r"model gives semantic in size \(6, 6\) for a patch of \(8, 8\)"):
        fit_size(model, torch.zeros(1, 2, 8, 8), dense=True)


@pytest.mark.parametrize("training", [True, False])
def test_fit_size_leaves_the_model_as_it_was(training):
    model = built(functools.partial(UNet, **SMALL_UNET, norm="BATCH", dropout=0.5)).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    fit_size(model, torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0)), dense=True)
    assert model.training is training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())
