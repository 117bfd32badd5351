from __future__ import annotations

import functools

import pytest
import torch
from monai.networks.nets import DynUNet

from medexp.core.errors import UsageError
from medexp.models.adapter import DEEP_SUPERVISION, DenseModel, build_model
from medexp.models.dynunet import dynunet

torch.set_num_threads(1)
HEADS = {"semantic": 2, "distance": 1}
KNOBS = {
    "filters": [4, 8, 8, 8],
    "strides": [1, 2, 2, 2],
    "kernel_size": [3, 3, 3, 3],
    "norm": "instance",
    "residual": False,
    "dropout": None,
    "deep_supervision_levels": 0,
}


def built(dims: int = 2, seed: int = 0, **knobs) -> DenseModel:
    torch.manual_seed(seed)
    factory = functools.partial(dynunet, **(KNOBS | knobs))
    return build_model(factory, spatial_dims=dims, in_channels=1, heads=HEADS, image_size=(16,) * dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_monais_network_with_the_channels_of_all_heads(dims):
    model = built(dims).eval()
    torch.manual_seed(0)
    expected = DynUNet(
        spatial_dims=dims, in_channels=1, out_channels=3, kernel_size=[3] * 4, strides=[1, 2, 2, 2],
        upsample_kernel_size=[2] * 3, filters=[4, 8, 8, 8],
    ).eval()  # fmt: skip
    images = torch.randn(1, 1, *[16] * dims)
    outputs = model(images)
    assert torch.equal(torch.cat([outputs["semantic"], outputs["distance"]], dim=1), expected(images))


@pytest.mark.parametrize("dims", [2, 3])
def test_deep_supervision_is_unstacked_in_training_only(dims):
    model = built(dims, deep_supervision_levels=2)
    images = torch.randn(2, 1, *[16] * dims)
    with torch.no_grad():
        outputs = model.train()(images)
        stacked = model.network(images)
    assert stacked.shape == (2, 3, 3, *[16] * dims)
    for level, maps in enumerate([outputs, *outputs[DEEP_SUPERVISION]]):
        assert torch.equal(maps["semantic"], stacked[:, level, :2])
        assert torch.equal(maps["distance"], stacked[:, level, 2:])
    assert list(model.eval()(images)) == list(HEADS)


def test_without_deep_supervision_there_is_one_map_in_training_too():
    assert list(built().train()(torch.randn(1, 1, 16, 16))) == list(HEADS)


def test_strides_may_differ_between_axes():
    model = built(3, strides=[1, [1, 2, 2], [2, 2, 2], [1, 2, 2]]).eval()
    assert model(torch.randn(1, 1, 4, 16, 16))["semantic"].shape == (1, 2, 4, 16, 16)


@pytest.mark.parametrize(
    "knobs",
    [
        {"filters": [4, 8, 8, 16]},
        {"strides": [1, 2, 2, 1]},
        {"kernel_size": [3, 3, 3, 1]},
        {"norm": "batch"},
        {"residual": True},
        {"dropout": 0.5},
        {"deep_supervision_levels": 1},
        {"filters": [8, 8, 8, 8], "norm": "group"},
    ],
)
def test_every_knob_changes_the_network(knobs):
    images = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    base = {"filters": knobs["filters"]} if "norm" in knobs and "filters" in knobs else {}
    results = []
    for chosen in (base, knobs):
        model = built(**chosen).train()
        torch.manual_seed(1)
        outputs = model(images)
        results.append((outputs["semantic"], len(outputs.get(DEEP_SUPERVISION, ()))))
    (before, levels_before), (after, levels_after) = results
    assert levels_before != levels_after or not torch.equal(before, after)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"filters": [4, 8, 8]}, r"need one value per level and 3 levels at least, got 3, 4 and 4"),
        ({"filters": [4, 8], "strides": [1, 2], "kernel_size": [3, 3]}, "3 levels at least, got 2, 2 and 2"),
        ({"strides": [2, 2, 2, 2]}, "model.strides needs 1 at the first level, .*got 2"),
        ({"norm": "layer"}, "model.norm is instance, batch or group, got layer"),
        ({"norm": "group"}, r"model.norm=group needs model.filters divisible by 8, got \[4, 8, 8, 8\]"),
        ({"deep_supervision_levels": 3}, r"deep_supervision_levels needs 0\.\.2 with 4 levels, got 3"),
        ({"deep_supervision_levels": -1}, r"deep_supervision_levels needs 0\.\.2 with 4 levels, got -1"),
        ({"filtres": [4]}, r"has no knob filtres; did you mean filters\?"),
    ],
)
def test_values_that_do_not_fit_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        built(**knobs)


def test_strides_of_one_along_each_axis_keep_the_grid():
    assert built(strides=[[1, 1], 2, 2, 2]).eval()(torch.randn(1, 1, 16, 16))["semantic"].shape[2:] == (16, 16)
