from __future__ import annotations

import copy
import functools
import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import masks_to_boxes, roi_align

from medexp.core.errors import UsageError
from medexp.models.adapter import build_model, fit_size
from medexp.models.mask_rcnn import mask_rcnn

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf" / "model" / "mask_rcnn.yaml"
TERMS = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
SMALL = {
    "backbone": "resnet18",
    "norm_groups": 8,
    "anchor_sizes_px": [8, 12, 16, 24, 32],
    "aspect_ratios": [1.0],
    "box_features": 16,
    "mask_size": 8,
    "proposals": 20,
    "sampled_boxes": 8,
    "detections_per_image": 10,
    "score_threshold": 0.0,
    "nms_iou": 0.5,
}


def network_of(*, in_channels: int = 1, spatial_dims: int = 2, heads=None, **knobs) -> nn.Module:
    torch.manual_seed(0)
    factory = functools.partial(mask_rcnn, **(SMALL | knobs))
    heads = heads or {"objects": 3}
    return build_model(
        factory, spatial_dims=spatial_dims, in_channels=in_channels, heads=heads, image_size=(32,) * spatial_dims
    )


def images_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def found_in(network: nn.Module, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    with torch.no_grad():
        return network.eval()(images)["objects"]


def target(*, rows: int, columns: int) -> dict[str, torch.Tensor]:
    instances = torch.zeros(rows, columns, dtype=torch.int32)
    instances[4:14, 6:20] = 1
    return {"boxes": torch.tensor([[4.0, 6.0, 14.0, 20.0]]), "labels": torch.tensor([2]), "instances": instances}


def test_the_option_file_lists_every_knob():
    stored = set(OmegaConf.load(CONF)) - {"_target_", "_partial_"}
    assert stored == set(inspect.signature(mask_rcnn).parameters) - {"spatial_dims", "in_channels", "heads"}


def test_what_is_found_is_what_torchvision_finds_with_the_same_weights():
    ours = network_of(in_channels=3)
    theirs = MaskRCNN(
        copy.deepcopy(ours.network.backbone), num_classes=None, min_size=64, max_size=64, image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_anchor_generator=AnchorGenerator(tuple((n,) for n in SMALL["anchor_sizes_px"]), ((1.0,),) * 5),
        box_head=copy.deepcopy(ours.network.roi_heads.box_head),
        box_predictor=copy.deepcopy(ours.network.roi_heads.box_predictor),
        mask_predictor=copy.deepcopy(ours.network.roi_heads.mask_predictor), rpn_pre_nms_top_n_test=20,
        rpn_post_nms_top_n_test=20, box_score_thresh=0.0, box_detections_per_img=10,
    ).eval()  # fmt: skip
    theirs.load_state_dict(ours.network.state_dict())
    theirs.roi_heads.mask_roi_pool.output_size = (4, 4)
    images = images_of(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(list(images))
    for found, other in zip(found_in(ours, images), expected, strict=True):
        assert len(found["boxes"]) > 0
        torch.testing.assert_close(found["boxes"], other["boxes"][:, [1, 0, 3, 2]])
        torch.testing.assert_close(paste_masks_in_image(found["masks"], other["boxes"], (64, 64)), other["masks"])
        for name in ("labels", "scores"):
            torch.testing.assert_close(found[name], other[name])


def test_a_target_reaches_torchvision_with_columns_first_and_a_mask_for_each_object():
    network = network_of().train()
    seen = []
    network.network.register_forward_pre_hook(lambda _, given: seen.extend(given[1]))
    own = target(rows=32, columns=40)
    own["instances"][20:24, 1:9] = 2
    two = {**own, "boxes": torch.tensor([[4.0, 6, 14, 20], [20, 1, 24, 9]]), "labels": torch.tensor([2, 1])}
    network(images_of(1, 1, 32, 40), [two])
    (given,) = seen
    assert torch.equal(masks_to_boxes(given["masks"]) + torch.tensor([0, 0, 1, 1]), given["boxes"])
    assert given["labels"].tolist() == [2, 1]


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_of_any_number_of_channels_keep_their_size_and_intensities(channels):
    network = network_of(in_channels=channels)
    images = images_of(1, channels, 48, 72)
    seen = []
    network.network.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    (found,) = found_in(network, images)
    assert torch.equal(seen[0][:, :, :48, :72], images)
    assert found["masks"].shape[1:] == (1, 8, 8)
    assert next(network.parameters()).shape[1] == channels


@pytest.mark.parametrize("first", [(40, 64), (64, 64)])
def test_features_are_pooled_where_the_box_lies_whatever_image_was_seen_first(first):
    network = network_of()
    found_in(network, images_of(1, 1, *first))
    pooling, backbone = network.network.roi_heads.box_roi_pool, network.network.backbone
    with torch.no_grad():
        features = backbone(images_of(1, 1, 64, 64))
    boxes = torch.tensor([[8.0, 4.0, 24.0, 16.0]])
    expected = roi_align(features["0"], [boxes], 7, spatial_scale=0.25, sampling_ratio=2)
    assert torch.equal(pooling(features, [boxes], [(40, 64)]), expected)


def test_boxes_are_not_rounded_in_mixed_precision():
    network = network_of()
    seen = []
    network.network.rpn.anchor_generator.register_forward_hook(lambda *given: seen.append(given[2][0]))
    images = images_of(1, 1, 32, 320)
    found_in(network, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = found_in(network, images)
    assert torch.equal(*seen)
    assert {name: values.dtype for name, values in found.items() if name != "labels"} == dict.fromkeys(
        ("boxes", "scores", "masks"), torch.float32
    )


def test_an_image_is_judged_alike_alone_and_beside_others():
    network, images = network_of(), images_of(3, 1, 32, 32)
    together, alone = found_in(network, images), found_in(network, images[1:2])
    torch.testing.assert_close(together[1]["boxes"], alone[0]["boxes"])
    torch.testing.assert_close(together[1]["scores"], alone[0]["scores"])


def test_in_training_it_gives_the_terms_of_torchvision_each_with_a_gradient():
    network = network_of().train()
    terms = network(images_of(2, 1, 32, 40), [target(rows=32, columns=40)] * 2)["losses"]
    assert set(terms) == TERMS
    torch.stack(list(terms.values())).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_losses_in_bf16_are_those_in_fp32_within_its_rounding():
    network, images = network_of().train(), images_of(2, 1, 32, 40)
    targets = [target(rows=32, columns=40)] * 2
    terms = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            terms.append(network(images, targets)["losses"])
    for name in ("loss_objectness", "loss_rpn_box_reg"):
        assert terms[1][name].dtype == torch.float32
        assert terms[1][name].item() == pytest.approx(terms[0][name].item(), rel=0.03)


def test_knobs_change_what_is_found():
    images = images_of(1, 1, 32, 40)
    (usual,) = found_in(network_of(detections_per_image=100), images)
    (few,) = found_in(network_of(detections_per_image=3), images)
    assert len(few["boxes"]) == 3 < len(usual["boxes"])
    least = usual["scores"].median().item()
    (sure,) = found_in(network_of(detections_per_image=100, score_threshold=least), images)
    assert 0 < len(sure["boxes"]) < len(usual["boxes"])
    assert (sure["scores"] >= least).all()
    (apart,) = found_in(network_of(detections_per_image=100, nms_iou=0.01), images)
    assert len(apart["boxes"]) < len(usual["boxes"])
    for knob in ({"proposals": 4}, {"aspect_ratios": [0.2]}, {"anchor_sizes_px": [4, 4, 4, 4, 4]}, {"norm_groups": 32}):
        (other,) = found_in(network_of(**knob), images)
        assert not torch.equal(other["boxes"][:3], usual["boxes"][:3]), knob


def test_the_mask_inside_a_box_has_the_size_that_is_asked_for():
    network = network_of(mask_size=12)
    sizes = []
    network.network.roi_heads.mask_predictor.register_forward_hook(lambda *given: sizes.append(given[2].shape[2:]))
    found_in(network, images_of(1, 1, 32, 32))
    assert sizes == [(12, 12)]


def test_the_size_of_a_patch_is_tried_without_targets():
    network = network_of().train()
    fit_size(network, torch.zeros(1, 1, 33, 47), dense=False)
    assert network.training


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"spatial_dims": 3}, "model=mask_rcnn is for 2D images, got 3D; choose model=mask_retinanet"),
        ({"heads": {"semantic": 2}}, r"has no maps \['semantic'\]; choose task=instance/detect"),
        ({"backbone": "resnet19"}, r"model\.backbone needs a ResNet of torchvision, got resnet19; did you mean"),
        ({"anchor_sizes_px": [8, 16]}, r"anchor_sizes_px needs 5 values, one a level, got \[8, 16\]"),
        ({"mask_size": 7}, "mask_size needs an even number"),
        ({"norm_groups": 7}, "cannot be built: num_channels"),
    ],
)
def test_what_does_not_fit_is_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        network_of(**knobs)
