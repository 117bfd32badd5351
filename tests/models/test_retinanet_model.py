from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.utils.anchor_utils import AnchorGenerator
from omegaconf import OmegaConf
from torchvision.models.detection.anchor_utils import AnchorGenerator as TorchvisionAnchors
from torchvision.models.detection.image_list import ImageList

from medexp.core.errors import UsageError
from medexp.models.adapter import build_model, fit_size
from medexp.models.retinanet import retinanet

CONF = Path(__file__).parents[2] / "conf" / "model" / "retinanet.yaml"
SMALL = {
    "channels": [8, 8, 8, 16],
    "blocks": [1, 1, 1, 1],
    "first_stride": 1,
    "levels": [2, 3],
    "pyramid_channels": 8,
    "norm_groups": 4,
    "anchor_sizes_px": [[6.0, 10.0], [14.0, 20.0], [28.0, 40.0]],
    "aspect_ratios": [0.5, 1.0, 2.0],
    "prior": 0.01,
}


def network_of(*, spatial_dims: int = 2, in_channels: int = 1, classes: int = 2, **knobs) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(
        functools.partial(retinanet, **(SMALL | knobs)),
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        heads={"logits": classes},
        image_size=(32,) * spatial_dims,
    )


@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_every_anchor_has_a_logit_for_each_class_and_offsets(in_channels):
    network = network_of(in_channels=in_channels, classes=3)
    outputs = network(torch.randn(2, in_channels, 48, 64))
    assert [tuple(level.shape) for level in outputs["logits"]] == [(2, 192, 6, 3), (2, 48, 6, 3), (2, 12, 6, 3)]
    assert [tuple(level.shape) for level in outputs["offsets"]] == [(2, 192, 6, 4), (2, 48, 6, 4), (2, 12, 6, 4)]
    assert [tuple(level.shape) for level in outputs["anchors"]] == [(192, 6, 4), (48, 6, 4), (12, 6, 4)]


def test_the_network_also_works_in_3d():
    ratios = [[1.0, 1.0], [0.5, 2.0]]
    network = network_of(spatial_dims=3, aspect_ratios=ratios, anchor_sizes_px=[[6.0], [10.0], [16.0]])
    outputs = network(torch.randn(1, 1, 16, 16, 32))
    assert [tuple(level.shape) for level in outputs["offsets"]] == [(1, 128, 2, 6), (1, 16, 2, 6), (1, 2, 2, 6)]


@pytest.mark.parametrize("dims", [2, 3])
def test_without_ratios_anchors_are_squares_or_cubes(dims):
    network = network_of(spatial_dims=dims, aspect_ratios=None, anchor_sizes_px=[[6.0], [10.0], [16.0]])
    for level, side in zip(network(torch.randn(1, 1, *[32] * dims))["anchors"], (6, 10, 16), strict=True):
        assert ((level[..., dims:] - level[..., :dims]) == side).all()


def test_the_anchors_are_centred_on_their_places_as_torchvision_s_half_a_stride_on():
    outputs = network_of()(torch.randn(1, 1, 48, 64))
    for level, sizes, stride in zip(outputs["anchors"], SMALL["anchor_sizes_px"], (4, 8, 16), strict=True):
        grid = torch.zeros(1, 8, 48 // stride, 64 // stride)
        images = ImageList(torch.zeros(1, 1, 48, 64), [(48, 64)])
        # torchvision has columns first, its ratio is rows over columns, and its anchors start at a place's corner.
        (columns_first,) = TorchvisionAnchors((tuple(sizes),), ((2.0, 1.0, 0.5),))(images, [grid])
        expected = columns_first[:, [1, 0, 3, 2]] + stride / 2
        assert torch.equal(level.flatten(0, 1), expected)


def test_the_values_belong_to_the_anchors_in_the_order_of_monai_s_detector():
    network = network_of().eval()
    images = torch.randn(2, 1, 32, 48)
    generator = AnchorGenerator(sizes=SMALL["anchor_sizes_px"], aspect_ratios=tuple(SMALL["aspect_ratios"]))
    detector = RetinaNetDetector(network.network, generator, spatial_dims=2, num_classes=2)
    with torch.no_grad():
        outputs, maps = network(images), network.network(images)
    detector.generate_anchors(images, maps)
    joined = torch.cat([level.flatten(1, 2) for level in outputs["logits"]], dim=1)
    assert torch.equal(joined, detector._reshape_maps(maps["classification"]))
    offsets = torch.cat([level.flatten(1, 2) for level in outputs["offsets"]], dim=1)
    assert torch.equal(offsets, detector._reshape_maps(maps["box_regression"]))
    assert torch.equal(torch.cat([level.flatten(0, 1) for level in outputs["anchors"]]), detector.anchors[0])


def test_images_of_any_size_pass_and_their_anchors_keep_the_stride():
    outputs = network_of()(torch.randn(1, 1, 33, 50))
    assert outputs["anchors"][0].shape[0] == (48 // 4) * (64 // 4)
    centers = (outputs["anchors"][0][:, 0, :2] + outputs["anchors"][0][:, 0, 2:]) / 2
    assert centers[:2].tolist() == [[2, 2], [2, 6]]
    fit_size(network_of(), torch.zeros(1, 1, 33, 50), dense=False)


def test_anchors_are_exact_in_mixed_precision():
    network = network_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = network(torch.randn(1, 1, 16, 512))
    assert outputs["logits"][0].dtype == torch.bfloat16
    assert torch.equal(outputs["anchors"][0], network(torch.randn(1, 1, 16, 512))["anchors"][0])


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_the_untrained_network_says_the_prior(prior):
    outputs = network_of(prior=prior)(torch.randn(1, 1, 32, 32))
    assert outputs["logits"][0].sigmoid().mean().item() == pytest.approx(prior, rel=0.1)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"levels": [3, 2]}, "levels needs rising numbers of stages from 1 to 4"),
        ({"levels": [2, 5]}, "levels needs rising numbers"),
        ({"levels": []}, "levels needs rising numbers"),
        ({"channels": [8, 8]}, "channels needs 4 values"),
        ({"blocks": [1]}, "blocks needs 4 values"),
        ({"pyramid_channels": 12}, "pyramid_channels needs a multiple of 8, got 12"),
        ({"anchor_sizes_px": [[6.0], [12.0]]}, "anchor_sizes_px needs 3 lists of equal length"),
        ({"anchor_sizes_px": [[6.0], [12.0], [24.0, 30.0]]}, "anchor_sizes_px needs 3 lists of equal length"),
        ({"aspect_ratios": [[1.0, 1.0]]}, "aspect_ratios needs numbers in 2D and pairs in 3D"),
        ({"prior": 0.0}, "prior needs a probability between 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        network_of(**knobs)


def test_another_task_is_told():
    with pytest.raises(UsageError, match="choose task=detection/retinanet"):
        retinanet(spatial_dims=2, in_channels=1, heads={"semantic": 3}, **SMALL)


def test_the_option_file_lists_every_knob():
    knobs = OmegaConf.to_container(OmegaConf.load(CONF))
    assert (knobs.pop("_target_"), knobs.pop("_partial_")) == ("medexp.models.retinanet.retinanet", True)
    assert set(knobs) == set(inspect.signature(retinanet).parameters) - {"spatial_dims", "in_channels", "heads"}
