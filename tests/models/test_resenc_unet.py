from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import DEEP_SUPERVISION, build_model
from medexp.models.resenc_unet import resenc_unet

torch.set_num_threads(1)
HEADS = {"semantic": 2, "distance": 1}
KNOBS = {
    "filters": [4, 8, 16, 16],
    "strides": [1, 2, 2, 2],
    "kernel_size": [3, 3, 3, 3],
    "blocks": [1, 3, 2, 1],
    "decoder_convolutions": [1, 2, 1],
    "norm": "instance",
    "dropout": None,
    "deep_supervision_levels": 2,
}
ANISOTROPIC = {"strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [1, 2, 2]], "kernel_size": [[1, 3, 3], [3, 3, 3], 3, 3]}


def built(dims: int = 2, **knobs) -> nn.Module:
    torch.manual_seed(0)
    factory = functools.partial(resenc_unet, **(KNOBS | knobs))
    return build_model(factory, spatial_dims=dims, in_channels=2, heads=HEADS, image_size=(16,) * dims)


def by_nnunet(dims: int, knobs) -> nn.Module:
    architectures = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    network = architectures.ResidualEncoderUNet(
        input_channels=2, n_stages=4, features_per_stage=knobs["filters"],
        conv_op=nn.Conv2d if dims == 2 else nn.Conv3d, kernel_sizes=knobs["kernel_size"], strides=knobs["strides"],
        n_blocks_per_stage=knobs["blocks"], num_classes=3, n_conv_per_stage_decoder=knobs["decoder_convolutions"],
        conv_bias=True, norm_op=nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )  # fmt: skip
    network.apply(network.initialize)
    return network


@pytest.mark.parametrize(("dims", "knobs"), [(2, {}), (3, {}), (3, ANISOTROPIC)])
def test_it_computes_what_nnu_net_s_network_computes_with_the_same_weights(dims, knobs):
    reference = by_nnunet(dims, KNOBS | knobs)
    model = built(dims, **knobs).train()
    own, theirs = list(model.parameters()), list(reference.parameters())
    assert [parameter.shape for parameter in own] == [parameter.shape for parameter in theirs]
    # What is not drawn is the same from the start: zeros and ones.
    fixed = [(a, b) for a, b in zip(own, theirs, strict=True) if a.ndim == 1]
    assert all(torch.equal(a, b) for a, b in fixed)
    with torch.no_grad():
        for a, b in zip(own, theirs, strict=True):
            a.copy_(b.normal_(0, 0.2))
    images = torch.randn(1, 2, *[16] * dims)
    outputs = model(images)
    for maps, expected in zip([outputs, *outputs[DEEP_SUPERVISION]], reference(images), strict=True):
        found = torch.cat([maps["semantic"], maps["distance"]], dim=1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# Counted in dynamic-network-architectures 0.4.4 with the knobs of this file.
@pytest.mark.parametrize(("dims", "parameters"), [(2, 25393), (3, 72705)])
def test_it_has_as_many_parameters_as_nnu_net_s_network(dims, parameters):
    assert sum(parameter.numel() for parameter in built(dims).parameters()) == parameters


# Counted in dynamic-network-architectures 0.4.4 for one channel and two classes, with maps of all levels for deep
# supervision; nnU-Net plans these levels for patches of 128 x 128 x 128 voxels and 512 x 512 pixels.
@pytest.mark.parametrize(
    ("dims", "filters", "blocks", "parameters"),
    [
        (3, [32, 64, 128, 256, 320, 320], [1, 3, 4, 6, 6, 6], 102_349_770),
        (2, [32, 64, 128, 256, 512, 512, 512, 512], [1, 3, 4, 6, 6, 6, 6, 6], 140_017_038),
    ],
)
def test_the_presets_of_nnu_net_have_as_many_parameters(dims, filters, blocks, parameters):
    levels = len(filters)
    with torch.device("meta"):
        model = resenc_unet(
            spatial_dims=dims, in_channels=1, heads={"semantic": 2}, filters=filters, strides=[1] + [2] * (levels - 1),
            kernel_size=[3] * levels, blocks=blocks, decoder_convolutions=[1] * (levels - 1), norm="instance",
            dropout=None, deep_supervision_levels=levels - 2,
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_at_first_a_block_passes_on_its_skip_alone():
    model = built()
    block = model.network.encoder[1][1]
    maps = torch.randn(1, 8, 8, 8)
    assert torch.equal(block(maps), nn.functional.leaky_relu(maps, 0.01))


def test_coarser_maps_have_the_size_of_their_level():
    outputs = built(3, **ANISOTROPIC).train()(torch.randn(1, 2, 4, 16, 16))
    sizes = [tuple(maps["semantic"].shape[2:]) for maps in (outputs, *outputs[DEEP_SUPERVISION])]
    assert sizes == [(4, 16, 16), (4, 8, 8), (2, 4, 4)]


def test_there_is_no_head_that_nothing_looks_at():
    model = built(deep_supervision_levels=0)
    assert len(model.network.heads) == 1
    assert list(model.train()(torch.randn(1, 2, 16, 16))) == list(HEADS)


def test_dropout_stands_after_the_convolutions_of_the_path_and_not_before_the_sum():
    block = built(dropout=0.25).network.encoder[1][0]
    assert [type(layer).__name__ for layer in block.path] == [
        "Conv2d", "Dropout2d", "InstanceNorm2d", "LeakyReLU", "Conv2d", "InstanceNorm2d",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"filters": [4]}, "filters needs one value a level and 2 levels at least"),
        ({"blocks": [1, 3]}, r"model\.blocks needs 4 values with 4 levels, got \[1, 3\]"),
        ({"decoder_convolutions": [1, 1, 1, 1]}, r"decoder_convolutions needs 3 values with 4 levels"),
        ({"blocks": [1, 0, 1, 1]}, r"blocks needs whole numbers from 1 on"),
        ({"strides": [2, 2, 2, 2]}, r"strides needs 1 at the first level"),
        ({"kernel_size": [3, 2, 3, 3]}, r"kernel_size needs odd numbers"),
        ({"deep_supervision_levels": 3}, r"deep_supervision_levels needs 0\.\.2 with 4 levels, got 3"),
        ({"norm": "layer"}, "norm is instance, batch or group"),
        ({"norm": "group"}, "norm=group needs model.filters divisible by 8"),
    ],
)
def test_what_does_not_fit_is_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        built(**knobs)
