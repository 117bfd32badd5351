"""Losses of distances and neighbours against MONAI, and what they leave out."""

from __future__ import annotations

import pytest
import torch
from loss_examples import build, example
from monai.losses import BoundaryLoss, HausdorffDTLoss, SoftclDiceLoss
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import UNANNOTATED
from medexp.losses.deep_supervision import DeepSupervision
from medexp.losses.ignore_index import IgnoreIndex

torch.set_num_threads(1)
SHAPES = [(9, 11), (6, 7, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("background", [False, True])
def test_boundary_agrees_with_monai(shape, background):
    logits, target = example("classes", shape=shape)
    monai = BoundaryLoss(softmax=True, to_onehot_y=True, include_background=background)
    ours = build("boundary", "classes", include_background=background)
    assert ours(logits, target).item() == pytest.approx(monai(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_hausdorff_agrees_with_monai(shape, alpha):
    logits, target = example("classes", shape=shape)
    monai = HausdorffDTLoss(softmax=True, to_onehot_y=True, include_background=False, alpha=alpha)
    ours = build("hausdorff", "classes", alpha=alpha)
    assert ours(logits, target).item() == pytest.approx(monai(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("iterations", [0, 2])
def test_cl_dice_of_one_class_agrees_with_monai(shape, iterations):
    logits, target = example("regions", batch=1, channels=1, shape=shape)
    monai = SoftclDiceLoss(sigmoid=True, iter_=iterations, smooth=1e-12)
    ours = build("cl_dice", "regions", iterations=iterations)
    assert ours(logits, target).item() == pytest.approx(monai(logits, target.double()).item(), rel=1e-9)


def test_all_regions_count_the_first_too():
    for name in ("boundary", "hausdorff", "cl_dice"):
        logits, target = example("regions", shape=SHAPES[0])
        logits.requires_grad_()
        build(name, "regions")(logits, target).backward()
        assert (logits.grad.abs().flatten(2).sum(dim=(0, 2)) > 0).all()


def test_distances_are_in_mm_where_the_spacing_is_given():
    logits, target = example("classes", channels=2, shape=SHAPES[1])
    spacing = (3.0, 1.0, 0.5)
    expected = []
    for sample, labels in zip(logits.softmax(dim=1)[:, 1], target[:, 0].numpy() > 0, strict=True):
        away = ndimage.distance_transform_edt(~labels, sampling=spacing)
        within = ndimage.distance_transform_edt(labels, sampling=spacing)
        signed = torch.from_numpy(away - labels * (within - 0.5))
        expected.append((sample * signed).mean().item())
    ours = build("boundary", "classes", spacing_mm=list(spacing))(logits, target)
    assert ours.item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["dice_boundary", "dice_hausdorff", "dice_cl_dice"])
def test_coarser_maps_and_unannotated_voxels_go_together(name):
    generator = torch.Generator().manual_seed(0)
    levels = [torch.randn(2, 3, *shape, generator=generator) for shape in ((12, 8), (6, 4))]
    target = torch.randint(3, (2, 1, 12, 8), generator=generator, dtype=torch.int16)
    target[:, :, :4] = UNANNOTATED
    cut = [levels[0][:, :, 4:], levels[1][:, :, 2:]]
    loss = DeepSupervision(loss=IgnoreIndex(loss=build(name, "classes"), ignore_index=9), decay=0.5)
    expected = loss(cut, target[:, :, 4:])
    for term, value in loss(levels, target).items():
        assert value.item() == pytest.approx(expected[term].item(), rel=1e-5)


def test_soft_cl_dice_asks_nothing_of_an_object_thicker_than_its_erosions():
    target = torch.zeros(1, 1, 24, 24, dtype=torch.int16)
    target[..., 3:21, 3:21] = 1
    empty = torch.full((1, 1, 24, 24), -30.0)
    thin, thick = build("cl_dice", "regions", iterations=9), build("cl_dice", "regions", iterations=3)
    assert thick(empty, target).item() == pytest.approx(0.0, abs=1e-6)
    assert thin(empty, target).item() > 0.2


@pytest.mark.parametrize(
    ("name", "kind", "knobs", "message"),
    [
        *((name, "regions", {"include_background": True}, "no meaning for") for name in ("boundary", "hausdorff")),
        ("cl_dice", "regions", {"include_background": True}, "no meaning for overlapping regions"),
        ("boundary", "classes", {"spacing_mm": [1.0, 0.0]}, r"loss\.spacing_mm needs values above 0"),
        ("hausdorff", "classes", {"alpha": 0.0}, r"loss\.alpha needs a value above 0, got 0"),
        ("cl_dice", "classes", {"iterations": -1}, r"loss\.iterations needs a whole number from 0 on, got -1"),
        ("cl_dice", "classes", {"smooth": 0.0}, r"loss\.smooth needs a value above 0"),
    ],
)
def test_knobs_without_meaning_are_refused(name, kind, knobs, message):
    with pytest.raises(UsageError, match=message):
        build(name, kind, **knobs)


def test_a_spacing_of_other_axes_is_refused():
    with pytest.raises(UsageError, match=r"loss\.spacing_mm needs 2 values, one for each axis"):
        build("boundary", "classes", spacing_mm=[1.0, 1.0, 1.0])(*example("classes"))
