from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from medexp.core.errors import UsageError
from medexp.models.adapter import build_model
from medexp.models.encoder_unet import encoder_unet
from medexp.models.extras import require

smp = pytest.importorskip("segmentation_models_pytorch")
torch.set_num_threads(1)
KNOBS = {
    "encoder_name": "tu-test_resnet",
    "encoder_weights": None,
    "decoder_channels": [32, 16, 16, 16, 16],
    "decoder_norm": "batchnorm",
    "decoder_attention": None,
    "decoder_interpolation": "nearest",
}


def built(*, channels: int = 3, **knobs) -> nn.Module:
    torch.manual_seed(0)
    factory = functools.partial(encoder_unet, **(KNOBS | knobs))
    return build_model(factory, spatial_dims=2, in_channels=channels, heads={"semantic": 2}, image_size=(32, 32))


def test_it_is_the_library_s_u_net_over_timm_s_encoder():
    torch.manual_seed(0)
    expected = smp.Unet("tu-test_resnet", encoder_weights=None, decoder_channels=(32, 16, 16, 16, 16), classes=2).eval()
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(built().eval()(images)["semantic"], expected(images))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_images_may_have_any_number_of_channels(channels):
    with torch.no_grad():
        maps = built(channels=channels).eval()(torch.randn(1, channels, 33, 47))
    assert maps["semantic"].shape == (1, 2, 33, 47)


@pytest.mark.parametrize(
    "knobs",
    [
        {"decoder_norm": "instancenorm"},
        {"decoder_norm": "identity"},
        {"decoder_attention": "scse"},
        {"decoder_interpolation": "bilinear"},
        {"decoder_interpolation": "bicubic"},
    ],
)
def test_a_knob_changes_the_network(knobs):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    usual, other = (built(**own).train()(images)["semantic"] for own in ({}, knobs))
    assert not torch.equal(usual, other)


@pytest.mark.parametrize(("encoder", "weights"), [("resnet18", "imagenet"), ("tu-test_resnet", "imagenet")])
def test_weights_that_cannot_be_had_are_told_and_not_replaced(encoder, weights, tmp_path: Path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UsageError, match=rf"the weights of {encoder} cannot be had .*model\.encoder_weights=null"
    ) as told:
        built(encoder_name=encoder, encoder_weights=weights)
    assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"encoder_name": "resnet17"}, r"got resnet17; did you mean resnet1"),
        ({"encoder_name": "tu-resnet17"}, r"got tu-resnet17; did you mean resnet1"),
        ({"encoder_name": "resnet18", "encoder_weights": "imagnet"}, r"got imagnet; did you mean imagenet"),
        ({"encoder_weights": "ssl"}, r"encoder_weights needs null or imagenet with tu-test_resnet, got ssl"),
        ({"decoder_channels": [8, 8]}, r"decoder_channels needs 5 values"),
        ({"decoder_norm": "layernorm"}, "decoder_norm needs batchnorm or instancenorm or identity, got layernorm"),
        ({"decoder_attention": "sce"}, "cannot be built"),
    ],
)
def test_what_does_not_fit_is_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        built(**knobs)


def test_a_package_that_is_not_installed_is_told():
    with pytest.raises(UsageError, match=r"model=mine needs no_such_module, .*pip install 'medexp\[networks\]'"):
        require("no_such_module", model="mine")
