from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torchvision.ops import box_iou, generalized_box_iou_loss, roi_align

from medexp.core.anchors import Assigned
from medexp.core.errors import UsageError
from medexp.models.adapter import build_model, fit_size
from medexp.models.box_masks import Losses, boxes_to_learn, masks_inside
from medexp.models.mask_retinanet import mask_retinanet

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf"
SMALL = {
    "channels": [8, 8, 8, 16],
    "blocks": [1, 1, 1, 1],
    "first_stride": 1,
    "levels": [2],
    "pyramid_channels": 8,
    "norm_groups": 4,
    "anchor_sizes_px": [[8.0], [16.0]],
    "aspect_ratios": None,
    "prior": 0.1,
    "candidates": 4,
    "center_inside": False,
    "focal_alpha": 0.25,
    "focal_gamma": 2.0,
    "smooth_l1_beta": 0.1,
    "mask_levels": [1, 2],
    "mask_size": 8,
    "mask_channels": 8,
    "mask_layers": 1,
    "mask_boxes": 4,
    "score_threshold": 0.0,
    "candidates_per_level": 50,
    "nms_iou": 0.5,
    "detections_per_image": 10,
}
SIZE = {2: (24, 32), 3: (16, 16, 24)}


def network_of(*, spatial_dims: int = 2, in_channels: int = 1, heads=None, **knobs) -> nn.Module:
    torch.manual_seed(0)
    return build_model(
        functools.partial(mask_retinanet, **(SMALL | knobs)),
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        heads=heads or {"objects": 3},
        image_size=SIZE[spatial_dims],
    )


def images_of(count: int, dims: int = 2, channels: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, *SIZE[dims], generator=torch.Generator().manual_seed(0))


def found_in(network: nn.Module, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    with torch.no_grad():
        return network.eval()(images)["objects"]


def target(dims: int = 2) -> dict[str, torch.Tensor]:
    """Two objects, the second of the first class."""
    instances = torch.zeros(SIZE[dims], dtype=torch.int32)
    instances[(slice(2, 9),) * dims], instances[(slice(8, 15),) * dims] = 1, 2
    boxes = torch.tensor([[2.0] * dims + [9.0] * dims, [8.0] * dims + [15.0] * dims])
    return {"boxes": boxes, "labels": torch.tensor([2, 1]), "instances": instances}


def nothing(dims: int = 2) -> dict[str, torch.Tensor]:
    instances = torch.zeros(SIZE[dims], dtype=torch.int32)
    return {"boxes": torch.zeros(0, 2 * dims), "labels": torch.zeros(0, dtype=torch.int64), "instances": instances}


def test_the_option_file_lists_every_knob_and_the_loss_s_every_term():
    knobs = OmegaConf.load(CONF / "model" / "mask_retinanet.yaml")
    assert set(knobs) - {"_target_", "_partial_"} == set(SMALL)
    assert set(SMALL) == set(inspect.signature(mask_retinanet).parameters) - {"spatial_dims", "in_channels", "heads"}
    terms = network_of().train()(images_of(1), [target()])["losses"]
    assert set(terms) == set(OmegaConf.load(CONF / "loss" / "one_stage_terms.yaml").weights)


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 1), (3, 3)])
def test_objects_have_boxes_in_the_image_and_masks_inside_them_the_surest_first(dims, channels):
    network, images = network_of(spatial_dims=dims, in_channels=channels), images_of(2, dims, channels)
    for found in found_in(network, images):
        count = len(found["scores"])
        assert 0 < count <= 10
        assert found["masks"].shape == (count, 1, *[8] * dims)
        assert ((found["masks"] > 0) & (found["masks"] < 1)).all()
        low, high = found["boxes"][:, :dims], found["boxes"][:, dims:]
        assert (low >= 0).all()
        assert (high <= torch.tensor(SIZE[dims])).all()
        assert (high > low).all()
        assert set(found["labels"].tolist()) <= {1, 2}
        assert (found["scores"].diff() <= 0).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("make", [target, nothing])
def test_the_terms_are_finite_and_every_parameter_has_a_gradient_with_objects_and_without(dims, make):
    network = network_of(spatial_dims=dims).train()
    terms = network(images_of(2, dims), [make(dims), nothing(dims)])["losses"]
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    parts = {name.split(".")[1] for name, p in network.named_parameters() if p.grad.any() and "detector" not in name}
    assert bool(parts) == (make is target)


def test_a_mask_is_the_head_s_for_the_class_of_the_box_read_by_torchvision_s_roi_align():
    network, images = network_of(mask_levels=[1]), images_of(1)
    (found,) = found_in(network, images)
    with torch.no_grad():
        features = network.detector.pyramid(images)[1]
        read = roi_align(features, [found["boxes"][:, [1, 0, 3, 2]]], 4, 0.5, sampling_ratio=2, aligned=True)
        logits = network.mask_head(read)
    expected = torch.stack([own[label - 1] for own, label in zip(logits, found["labels"], strict=True)])
    torch.testing.assert_close(found["masks"][:, 0], expected.sigmoid(), rtol=1e-3, atol=1e-4)


def test_masks_to_learn_are_what_torchvision_s_roi_align_reads_of_the_whole_mask():
    own = target()
    boxes = torch.tensor([[2.0, 2, 9, 9], [7.5, 8.25, 15.5, 14.0], [0.0, 0.5, 24.0, 32.0], [1.0, 3.0, 8.0, 12.0]])
    objects = torch.tensor([0, 1, 1, 0])
    masks = (own["instances"] == torch.tensor([1, 2])[:, None, None]).float()
    rois = torch.cat([objects[:, None].float(), boxes[:, [1, 0, 3, 2]]], dim=1)
    expected = roi_align(masks[:, None], rois, 8, sampling_ratio=2, aligned=True)[:, 0]
    values = masks_inside(own["instances"], objects + 1, boxes, size=8)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-5)


def seen_of(anchors: list[list[float]], logits: list[float], boxes: list[list[float]], objects: list[int]) -> Assigned:
    count = len(anchors)
    said = torch.tensor(logits)[None, :, None].expand(1, count, 2)
    return Assigned(
        logits=said, one_hot=torch.ones(1, count, 2), offsets=torch.zeros(count, 4), anchors=torch.tensor(anchors),
        boxes=torch.tensor(boxes), images=torch.zeros(count, dtype=torch.int64), places=torch.arange(count),
        objects=torch.tensor(objects),
    )  # fmt: skip


def test_masks_are_learned_in_the_reference_s_boxes_and_the_surest_that_overlap_them():
    own = target()
    first, second = own["boxes"].tolist()
    anchors = [[1.0, 1, 9, 9], [7.0, 8, 15, 17], [12.0, 8, 20, 15], [2.0, 2, 9, 8]]
    seen = seen_of(anchors, [0.1, 0.9, 2.0, 0.5], [first, second, second, first], [0, 1, 1, 0])
    fits = box_iou(torch.tensor(anchors), torch.tensor([first, second, second, first])).diagonal() >= 0.5
    assert fits.tolist() == [True, True, False, True]
    ((boxes, objects),) = boxes_to_learn(seen, [own], SIZE[2], limit=2)
    assert boxes.tolist() == [first, second, anchors[1], anchors[3]]
    assert objects.tolist() == [0, 1, 1, 0]
    ((boxes, _),) = boxes_to_learn(seen, [own], SIZE[2], limit=0)
    assert boxes.tolist() == [first, second]


def test_box_terms_are_torch_s_and_torchvision_s_over_the_anchors_with_an_object():
    seen = seen_of([[1.0, 1, 9, 9], [7.0, 8, 15, 17]], [0.1, 0.9], [[2.0, 2, 9, 9], [8.0, 8, 15, 15]], [0, 1])
    terms = Losses(focal_alpha=0.25, focal_gamma=0.0, smooth_l1_beta=0.0).of_boxes(seen)
    assert terms["loss_box_giou"].item() == pytest.approx(
        generalized_box_iou_loss(seen.anchors, seen.boxes, reduction="mean").item(), abs=1e-5
    )
    assert terms["loss_box_reg"].item() == pytest.approx(seen.wanted_offsets().abs().sum().item() / 2)
    entropy = nn.functional.binary_cross_entropy_with_logits(seen.logits, seen.one_hot, reduction="sum")
    assert terms["loss_classifier"].item() == pytest.approx(0.25 * entropy.item() / 2)


def test_mask_terms_are_zero_for_the_perfect_mask_and_one_by_dice_for_its_opposite():
    losses = Losses(focal_alpha=0.25, focal_gamma=2.0, smooth_l1_beta=0.1)
    wanted = (torch.rand(3, 4, 4, 4) > 0.5).float()
    right, wrong = (losses.of_masks(sign * 100 * (2 * wanted - 1), wanted) for sign in (1, -1))
    assert [right[name].item() for name in ("loss_mask", "loss_mask_dice")] == pytest.approx([0, 0], abs=1e-5)
    assert [wrong[name].item() for name in ("loss_mask", "loss_mask_dice")] == pytest.approx([100, 1], abs=1e-5)


def test_boxes_are_not_rounded_in_mixed_precision_and_losses_are_those_of_fp32_within_its_rounding():
    network, images = network_of(), images_of(2)
    terms = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            terms.append(network.train()(images, [target(), nothing()])["losses"])
    for name, term in terms[0].items():
        assert terms[1][name].dtype == torch.float32
        assert terms[1][name].item() == pytest.approx(term.item(), rel=0.05), name
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found, _) = found_in(network, images)
    assert {name: values.dtype for name, values in found.items() if name != "labels"} == dict.fromkeys(
        ("boxes", "scores", "masks"), torch.float32
    )
    assert not torch.equal(found["boxes"], found["boxes"].bfloat16().float())


def test_an_image_is_judged_alike_alone_and_beside_others():
    network, images = network_of(), images_of(3)
    together, alone = found_in(network, images), found_in(network, images[1:2])
    for name in ("boxes", "scores", "masks"):
        torch.testing.assert_close(together[1][name], alone[0][name])


def test_nothing_that_is_sure_enough_is_no_object():
    (found,) = found_in(network_of(spatial_dims=3, score_threshold=1.0), images_of(1, 3))
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        "boxes": (0, 6), "labels": (0,), "scores": (0,), "masks": (0, 1, 8, 8, 8),
    }  # fmt: skip


def test_knobs_change_what_is_found():
    images = images_of(1)
    (usual,) = found_in(network_of(detections_per_image=100), images)
    (few,) = found_in(network_of(detections_per_image=3), images)
    assert len(few["boxes"]) == 3 < len(usual["boxes"])
    least = usual["scores"].median().item()
    (sure,) = found_in(network_of(detections_per_image=100, score_threshold=least), images)
    assert 0 < len(sure["boxes"]) < len(usual["boxes"])
    (apart,) = found_in(network_of(detections_per_image=100, nms_iou=0.01), images)
    assert len(apart["boxes"]) < len(usual["boxes"])
    (level,) = found_in(network_of(detections_per_image=100, candidates_per_level=2), images)
    assert len(level["boxes"]) <= 4
    for knob in (
        {"aspect_ratios": [0.2]},
        {"anchor_sizes_px": [[4.0], [8.0]]},
        {"norm_groups": 2},
        {"blocks": [2] * 4},
    ):
        (other,) = found_in(network_of(detections_per_image=100, **knob), images)
        assert not torch.equal(other["boxes"][:3], usual["boxes"][:3]), knob
    for knob in ({"mask_levels": [2]}, {"mask_layers": 2}, {"mask_channels": 16}):
        (other,) = found_in(network_of(detections_per_image=100, **knob), images)
        assert not torch.equal(other["masks"][:3], usual["masks"][:3]), knob


def test_knobs_of_the_loss_change_it():
    def terms_of(**knobs) -> dict[str, float]:
        terms = network_of(**knobs).train()(images_of(1), [target()])["losses"]
        return {name: term.item() for name, term in terms.items()}

    usual = terms_of()
    for knob, name in (
        ({"focal_alpha": 0.5}, "loss_classifier"),
        ({"focal_gamma": 0.0}, "loss_classifier"),
        ({"smooth_l1_beta": 1.0}, "loss_box_reg"),
        ({"candidates": 1}, "loss_box_reg"),
        ({"center_inside": True, "candidates": 9}, "loss_box_reg"),
    ):
        assert terms_of(**knob)[name] != usual[name], knob


def test_the_size_of_a_patch_is_tried_without_targets():
    network = network_of(spatial_dims=3).train()
    fit_size(network, torch.zeros(1, 1, 17, 19, 23), dense=False)
    assert network.training


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"heads": {"semantic": 2}}, r"has no maps \['semantic'\]; choose task=instance/detect"),
        ({"mask_levels": [1, 3]}, r"mask_levels needs rising numbers of stages from 1 to 2, the last of model\.levels"),
        ({"mask_levels": []}, "mask_levels needs rising numbers"),
        ({"mask_levels": [2, 1]}, "mask_levels needs rising numbers"),
        ({"mask_size": 7}, "mask_size needs an even number"),
        ({"mask_size": 2}, "mask_size needs an even number from 4 on"),
        ({"mask_channels": 12}, "mask_channels needs a multiple of 8, got 12"),
        ({"mask_layers": 0}, r"model\.mask_layers needs a value >= 1, got 0"),
        ({"mask_boxes": -1}, r"model\.mask_boxes needs a value >= 0, got -1"),
        ({"candidates": 0}, r"model\.candidates needs a value >= 1"),
        ({"score_threshold": 1.5}, r"model\.score_threshold needs a value in \[0, 1\]"),
        ({"smooth_l1_beta": -1.0}, r"model\.smooth_l1_beta needs a value >= 0"),
        ({"levels": []}, "levels needs rising numbers of stages from 1 to 4"),
        ({"anchor_sizes_px": [[6.0]]}, "anchor_sizes_px needs 2 lists of equal length"),
        ({"aspect_ratios": [[1.0, 1.0]]}, "aspect_ratios needs numbers in 2D and pairs in 3D"),
    ],
)
def test_what_does_not_fit_is_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        network_of(**knobs)
