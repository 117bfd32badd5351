"""What medexp changes in MONAI's networks, and that it changes nothing else."""

from __future__ import annotations

import functools

import pytest
import torch
from monai.networks import nets
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DEEP_SUPERVISION, build_model
from medexp.models.attention_unet import attention_unet
from medexp.models.mednext import mednext
from medexp.models.segresnet import segresnet, segresnet_ds
from medexp.models.swin_unetr import swin_unetr
from medexp.models.unet_plus_plus import unet_plus_plus
from medexp.models.unetr import unetr
from medexp.models.vnet import vnet

torch.set_num_threads(1)
NESTED = {
    "features": (4, 4, 4, 4, 4, 4),
    "act": "RELU",
    "norm": "BATCH",
    "bias": True,
    "dropout": 0.0,
    "upsample": "deconv",
}
ATTENTION = {"channels": [4, 8, 8], "strides": [2, 2], "kernel_size": 3, "up_kernel_size": 3, "dropout": 0.0}
RESIDUAL = {
    "init_filters": 8, "blocks_down": [1, 2, 1], "blocks_up": [1, 1], "act": "RELU", "norm": "BATCH",
    "upsample_mode": "deconv",
}  # fmt: skip
NEXT = {
    "init_filters": 4, "encoder_expansion_ratio": [2, 3], "bottleneck_expansion_ratio": 4,
    "decoder_expansion_ratio": [3, 2], "kernel_size": 3, "blocks_down": [1, 2], "blocks_bottleneck": 1,
    "blocks_up": [1, 1], "residual": True, "global_response_norm": True, "deep_supervision": True,
}  # fmt: skip
VNET = {"act": "RELU", "bias": False, "dropout_down": 0.5, "dropout_up": 0.5, "dropout_skip": 0.5}
TOKENS = {
    "feature_size": 4, "hidden_size": 16, "mlp_dim": 16, "num_heads": 2, "proj_type": "conv", "norm_name": "INSTANCE",
    "conv_block": True, "res_block": True, "dropout_rate": 0.0, "qkv_bias": False,
}  # fmt: skip
WINDOWS = {
    "feature_size": 12, "depths": [1, 1, 1, 1], "num_heads": [3, 3, 3, 3], "window_size": 2, "mlp_ratio": 1.0,
    "qkv_bias": True, "norm_name": "BATCH", "drop_rate": 0.0, "attn_drop_rate": 0.0, "dropout_path_rate": 0.0,
    "normalize": True, "patch_norm": False, "downsample": "merging", "use_v2": False, "use_checkpoint": False,
}  # fmt: skip


def built(factory, knobs, *, dims: int = 2, channels: int = 2, size=(16, 16)) -> nn.Module:
    torch.manual_seed(0)
    partial = functools.partial(factory, **knobs)
    return build_model(partial, spatial_dims=dims, in_channels=channels, heads={"semantic": 3}, image_size=size)


def monai(name: str, **knobs) -> nn.Module:
    torch.manual_seed(0)
    return getattr(nets, name)(spatial_dims=2, in_channels=2, out_channels=3, **knobs)


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_result_of_unet_plus_plus_is_the_map_of_its_deepest_u_net(deep_supervision):
    model = built(unet_plus_plus, NESTED | {"deep_supervision": deep_supervision}).eval()
    reference = monai("BasicUNetPlusPlus", **NESTED, deep_supervision=True).eval()
    patch = images(1, 2, 32, 32)
    with torch.no_grad():
        shallow_to_deep = reference(patch)
        assert torch.equal(model(patch)["semantic"], shallow_to_deep[-1])
        outputs = model.train()(patch)
        trained = reference.train()(patch)
    if deep_supervision:
        assert all(
            torch.equal(level["semantic"], expected)
            for level, expected in zip(outputs[DEEP_SUPERVISION], trained[-2::-1], strict=True)
        )


def test_without_deep_supervision_unet_plus_plus_has_one_head():
    heads = [name for name, _ in built(unet_plus_plus, NESTED | {"deep_supervision": False}).named_parameters()]
    assert {name.split(".")[2] for name in heads if "final" in name} == {"final_conv_0_4"}


@pytest.mark.parametrize(
    ("factory", "knobs", "reference"),
    [
        (attention_unet, ATTENTION, lambda: monai("AttentionUnet", **ATTENTION)),
        (segresnet, RESIDUAL | {"dropout": None}, lambda: monai("SegResNet", **RESIDUAL)),
        (
            segresnet_ds,
            RESIDUAL | {"resolution_mm": [1.0, 2.5], "deep_supervision_levels": 1},
            lambda: monai("SegResNetDS", **RESIDUAL, resolution=(1.0, 2.5), dsdepth=2),
        ),
        (vnet, VNET, lambda: monai("VNet", act="RELU")),
        (
            mednext,
            NEXT,
            lambda: monai(
                "MedNeXt", **{k: v for k, v in NEXT.items() if k not in ("residual", "global_response_norm")},
                use_residual_connection=True, global_resp_norm=True,
            ),
        ),
    ],
)  # fmt: skip
def test_it_is_monai_s_network(factory, knobs, reference):
    patch = images(1, 2, 16, 32)
    with torch.no_grad():
        assert torch.equal(built(factory, knobs).eval()(patch)["semantic"], reference().eval()(patch))


def test_a_resolution_shrinks_the_finer_axis_first():
    knobs = RESIDUAL | {"resolution_mm": [1.0, 4.0], "deep_supervision_levels": 1}
    outputs = built(segresnet_ds, knobs).train()(images(1, 2, 16, 16))
    assert outputs[DEEP_SUPERVISION][0]["semantic"].shape[2:] == (8, 16)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("knob", "count"), [("dropout_down", 2), ("dropout_up", 2), ("dropout_skip", 4)])
def test_v_net_drops_channels_and_not_samples_where_the_knob_says(dims, knob, count):
    rates = dict.fromkeys(("dropout_down", "dropout_up", "dropout_skip"), 0.0)
    model = built(vnet, VNET | rates | {knob: 0.5}, dims=dims).train()
    dropouts = [layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd)]
    active = [layer for layer in dropouts if layer.p > 0]
    assert (len(active), len(dropouts)) == (count, 8)
    ones = torch.ones(4, 64, *[2] * dims)
    for layer in active:
        dropped = layer(ones)
        kept = dropped.flatten(2).amax(-1) > 0
        assert torch.equal(dropped, 2 * kept[(..., *[None] * dims)] * ones)
        assert all(0 < n < 64 for n in kept.sum(1))


def test_v_net_without_dropout_gives_the_same_twice():
    rates = dict.fromkeys(("dropout_down", "dropout_up", "dropout_skip"), 0.0)
    model, patch = built(vnet, VNET | rates).train(), images(2, 2, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(patch)["semantic"], model(patch)["semantic"])


@pytest.mark.parametrize("knob", ["residual", "global_response_norm", "deep_supervision"])
def test_a_switch_of_mednext_changes_it(knob):
    shapes = [
        [tuple(parameter.shape) for parameter in built(mednext, NEXT | {knob: value}).parameters()]
        for value in (False, True)
    ]
    assert len(shapes[0]) < len(shapes[1])


# In 2D both ways of merging are one.
@pytest.mark.parametrize(
    ("dims", "knobs"),
    [(2, {"use_v2": True}), (2, {"patch_norm": True}), (2, {"window_size": 4}), (3, {"downsample": "mergingv2"})],
)
def test_a_knob_of_swin_unetr_changes_it(dims, knobs):
    pytest.importorskip("einops")
    patch = images(1, 2, *[32] * dims)
    with torch.no_grad():
        usual, other = (built(swin_unetr, WINDOWS | own, dims=dims).eval()(patch)["semantic"] for own in ({}, knobs))
    assert not torch.equal(usual, other)


@pytest.mark.parametrize("knobs", [{"proj_type": "perceptron"}, {"conv_block": False}, {"qkv_bias": True}])
def test_a_knob_of_unetr_changes_it(knobs):
    pytest.importorskip("einops")
    usual, other = (
        sum(parameter.numel() for parameter in built(unetr, TOKENS | own).parameters()) for own in ({}, knobs)
    )
    patch = images(1, 2, 16, 16)
    with torch.no_grad():
        maps = [built(unetr, TOKENS | own).eval()(patch)["semantic"] for own in ({}, knobs)]
    assert usual != other or not torch.equal(*maps)


def test_patches_that_tokens_do_not_cover_are_refused_with_the_nearest():
    pytest.importorskip("einops")
    with pytest.raises(UsageError, match=r"tokens of 16 voxels.*\(40, 7\); choose dataset\.patch_size=\[48,16\]"):
        built(unetr, TOKENS, size=(40, 7))


@pytest.mark.parametrize(
    ("factory", "knobs", "message"),
    [
        (attention_unet, ATTENTION | {"strides": [2, 2, 2]}, "got 3 strides and 3 channels"),
        (attention_unet, ATTENTION | {"channels": [4], "strides": []}, "got 0 strides and 1 channels"),
        (segresnet, RESIDUAL | {"dropout": None, "blocks_up": [1]}, r"blocks_up needs one value less"),
        (
            segresnet_ds,
            RESIDUAL | {"resolution_mm": None, "deep_supervision_levels": 2},
            r"deep_supervision_levels needs 0\.\.1 with 3 levels, got 2",
        ),
        (
            segresnet_ds,
            RESIDUAL | {"resolution_mm": [1.0, 1.0, 1.0], "deep_supervision_levels": 0},
            "resolution_mm needs 2 values",
        ),
        (segresnet, RESIDUAL | {"dropout": None, "norm": "INSTANCES"}, "cannot be built"),
        (mednext, NEXT | {"kernel_size": 4}, "kernel_size needs an odd number"),
        (mednext, NEXT | {"blocks_up": [1]}, r"model\.blocks_up needs as many values as model\.blocks_down, 2"),
        (vnet, VNET | {"dropout_skip": 1.0}, r"model\.dropout_skip needs a probability from 0 up to 1"),
        (unet_plus_plus, NESTED | {"deep_supervision": False, "features": (4, 4)}, "cannot be built"),
    ],
)
def test_what_does_not_fit_is_refused(factory, knobs, message):
    with pytest.raises(UsageError, match=message):
        built(factory, knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"depths": [1, 1]}, r"model\.depths needs 4 values"),
        ({"num_heads": [3, 3, 3, 5]}, r"model\.num_heads\[3\] needs a divisor of the stage's 96 channels, got 5"),
        ({"feature_size": 16, "num_heads": [2, 2, 2, 2]}, "feature_size should be divisible by 12"),
    ],
)
def test_stages_of_swin_unetr_that_do_not_fit_are_refused(knobs, message):
    pytest.importorskip("einops")
    with pytest.raises(UsageError, match=message):
        built(swin_unetr, WINDOWS | knobs)


def test_v_net_refuses_a_picture_of_three_channels():
    with pytest.raises(UsageError, match="16 channels, which 3 do not divide; choose another model"):
        built(vnet, VNET, channels=3)
