"""Losses of soft counts against their formulas, their special cases and MONAI."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from loss_examples import build, example, total
from monai.losses import GeneralizedDiceLoss, GeneralizedWassersteinDiceLoss, MCCLoss
from monai.losses.unified_focal_loss import AsymmetricFocalLoss, AsymmetricFocalTverskyLoss

from medexp.core.errors import UsageError

torch.set_num_threads(1)
KINDS = ("classes", "regions")


def value(name: str, kind: str, **knobs: Any) -> float:
    return total(build(name, kind, **knobs), *example(kind)).item()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [False, True])
def test_tversky_of_halves_is_dice(kind, batch):
    # Tversky's counts are half those of Dice, and so are its smoothing terms.
    halves = {"alpha": 0.5, "beta": 0.5, "smooth_nr": 0.5, "smooth_dr": 1.0}
    dice = value("dice", kind, smooth_nr=1.0, smooth_dr=2.0, batch=batch)
    assert value("tversky", kind, **halves, batch=batch) == pytest.approx(dice, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_focal_tversky_is_a_root_of_tversky_by_image_and_class(kind):
    assert value("focal_tversky", kind, gamma=1.0) == pytest.approx(value("tversky", kind), rel=1e-12)
    logits, target = example(kind, batch=1, channels=2 if kind == "classes" else 1)
    plain = total(build("tversky", kind), logits, target).item()
    assert total(build("focal_tversky", kind), logits, target).item() == pytest.approx(plain**0.75, rel=1e-9)


def test_tverskys_weights_stand_on_their_errors():
    logits = torch.tensor([[[-9.0, -9.0, 9.0, 9.0], [9.0, 9.0, -9.0, -9.0]]]).double() * 9
    missed, alarmed = torch.tensor([[[1, 1, 1, 0]]]), torch.tensor([[[1, 0, 0, 0]]])
    knobs = {"alpha": 0.2, "beta": 0.9, "smooth_nr": 0.0}
    loss = build("tversky", "classes", **knobs)
    assert loss(logits, missed).item() == pytest.approx(1 - 2 / (2 + 0.9), rel=1e-4)
    assert loss(logits, alarmed).item() == pytest.approx(1 - 1 / (1 + 0.2), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_log_cosh_is_of_the_dice_of_each_image_and_class(kind):
    logits, target = example(kind)
    each = build("dice", kind).each(logits, target).flatten().tolist()
    expected = sum(math.log(math.cosh(loss)) for loss in each) / len(each)
    assert value("log_cosh_dice", kind) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("weighting", ["square", "simple", "uniform"])
@pytest.mark.parametrize("batch", [False, True])
def test_generalised_dice_agrees_with_monai(weighting, batch):
    logits, target = example("classes", channels=4)
    target[0][target[0] == 2] = 1  # a class that one image lacks
    for include_background in (False, True):
        knobs: dict[str, Any] = {"include_background": include_background, "batch": batch}
        monai = GeneralizedDiceLoss(softmax=True, to_onehot_y=True, w_type=weighting, **knobs)
        ours = build("generalised_dice", "classes", weighting=weighting, **knobs)
        assert ours(logits, target).item() == pytest.approx(monai(logits, target).item(), rel=1e-6)


def test_generalised_dice_of_one_class_is_dice():
    logits, target = example("classes", channels=2)
    one = build("generalised_dice", "classes", include_background=False, weighting="uniform")
    assert one(logits, target).item() == pytest.approx(build("dice", "classes")(logits, target).item(), rel=1e-9)


def test_wasserstein_dice_of_classes_equally_far_apart_is_dice_of_all_foreground():
    logits, target = example("classes", channels=2)
    loss = build("generalised_wasserstein_dice", "classes")(logits, target)
    assert loss.item() == pytest.approx(build("dice", "classes")(logits, target).item(), rel=1e-9)


@pytest.mark.parametrize(("weighting", "mode"), [("default", "default"), ("volume", "GDL")])
def test_wasserstein_dice_takes_the_distances_of_the_file(weighting, mode):
    logits, target = example("classes")
    distances = [[0.0, 2.0, 2.0], [2.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
    monai = GeneralizedWassersteinDiceLoss(torch.tensor(distances).double(), weighting_mode=mode)
    ours = build("generalised_wasserstein_dice", "classes", distances=distances, weighting=weighting)
    assert ours(logits, target).item() == pytest.approx(monai(logits, target).item(), rel=1e-6)
    swapped = target.clone()
    swapped[target > 0] = 3 - target[target > 0]
    sure = 20.0 * torch.nn.functional.one_hot(swapped[:, 0].long(), 3).movedim(-1, 1).double()
    far = build("generalised_wasserstein_dice", "classes", weighting=weighting)
    assert ours(sure, target) < far(sure, target)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_matthews_agrees_with_monai_where_the_correlation_is_defined(kind, batch):
    logits, target = example(kind)
    monai = MCCLoss(softmax=kind == "classes", sigmoid=kind == "regions", batch=batch, smooth_dr=1e-12)
    ours = build("matthews", kind, smooth=1e-9, batch=batch, include_background=kind == "classes")
    truth = target if kind == "regions" else torch.cat([target == i for i in range(3)], dim=1)
    assert ours(logits, target).item() == pytest.approx(monai(logits, truth.double()).item(), rel=1e-6)


def test_matthews_of_an_absent_class_falls_with_its_false_positives():
    target = torch.zeros(1, 1, 6, 6, dtype=torch.int16)
    losses = [
        total(build("matthews", "regions"), torch.full((1, 1, 6, 6), size), target).item()
        for size in (-20.0, -2.0, 2.0)
    ]
    assert losses[0] == pytest.approx(0.0, abs=1e-4)
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize("name", ["unified_focal", "asymmetric_unified_focal"])
@pytest.mark.parametrize("kind", KINDS)
def test_unified_focal_without_focusing_is_half_the_cross_entropy_and_dice(name, kind):
    plain = {"gamma": 0.0, "delta": 0.5, "smooth": 1e-9}
    cross_entropy = value("cross_entropy", kind)
    assert value(name, kind, **plain, weight=1.0) == pytest.approx(cross_entropy / 2, rel=1e-9)
    logits, target = example(kind)
    if kind == "regions":
        # Each region's background is the region's complement.
        both, truth = torch.cat([logits, -logits], dim=1), torch.cat([target, 1 - target], dim=1)
        dice = total(build("dice", "regions", smooth_nr=0.0), both, truth).item()
    else:
        dice = value("dice", "classes", smooth_nr=0.0, include_background=True)
    assert value(name, kind, **plain, weight=0.0) == pytest.approx(dice, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_unified_focal_are_focal_and_focal_tversky(kind):
    focal = value("focal", kind, gamma=0.4, alpha=0.6)
    assert value("unified_focal", kind, weight=1.0, gamma=0.4) == pytest.approx(focal, rel=1e-6)
    if kind == "classes":
        knobs = {"include_background": True, "alpha": 0.4, "beta": 0.6, "gamma": 1 / 0.6}
        tversky = value("focal_tversky", kind, **knobs)
        assert value("unified_focal", kind, weight=0.0, gamma=0.4) == pytest.approx(tversky, rel=1e-6)


@pytest.mark.parametrize("gamma", [0.2, 0.5])
def test_asymmetric_unified_focal_of_two_classes_is_monais_with_softmax_and_the_sum_of_its_focal_part(gamma):
    logits, target = example("classes", channels=2)
    soft = logits.softmax(dim=1)
    focal = 2 * AsymmetricFocalLoss(to_onehot_y=True, delta=0.6, gamma=gamma)(soft, target)
    tversky = AsymmetricFocalTverskyLoss(to_onehot_y=True, delta=0.6, gamma=gamma)(soft, target)
    for weight in (0.0, 0.3, 1.0):
        expected = weight * focal + (1 - weight) * tversky
        ours = value_of_two_classes(weight=weight, gamma=gamma)
        assert ours == pytest.approx(expected.item(), rel=1e-5)


def value_of_two_classes(**knobs: Any) -> float:
    return total(build("asymmetric_unified_focal", "classes", **knobs), *example("classes", channels=2)).item()


@pytest.mark.parametrize(
    "name", ["cross_entropy", "focal", "dice", "tversky", "matthews", "unified_focal", "asymmetric_unified_focal"]
)
def test_two_exclusive_classes_are_one_region(name):
    logits, target = example("classes", channels=2)
    region = total(build(name, "regions"), logits[:, 1:] - logits[:, :1], target)
    assert total(build(name, "classes"), logits, target).item() == pytest.approx(region.item(), rel=1e-9)


REFUSED = [
    ("tversky", "classes", {"alpha": -0.1}, r"loss\.alpha and loss\.beta need values >= 0"),
    ("tversky", "classes", {"alpha": 0.0, "beta": 0.0}, "one above 0"),
    ("tversky", "classes", {"gamma": 0.0}, r"loss\.gamma needs a value above 0, got 0"),
    ("tversky", "regions", {"include_background": True}, "no meaning for overlapping regions"),
    ("generalised_dice", "classes", {"weighting": "cubic"}, "needs square or simple or uniform, got cubic"),
    ("generalised_dice", "regions", {"include_background": True}, "no meaning for overlapping regions"),
    ("generalised_dice", "classes", {"smooth_dr": 0.0}, "needs smooth_nr >= 0 and smooth_dr > 0"),
    ("generalised_wasserstein_dice", "regions", {"smooth_nr": 1e-5}, "needs exclusive classes"),
    ("generalised_wasserstein_dice", "classes", {"weighting": "GDL"}, "needs default or volume"),
    ("generalised_wasserstein_dice", "classes", {"smooth_nr": 0.0}, "need values above 0"),
    ("generalised_wasserstein_dice", "classes", {"distances": [[0.0, 1.0]]}, "needs a symmetric matrix"),
    ("generalised_wasserstein_dice", "classes", {"distances": [[0.0, 1.0], [0.5, 0.0]]}, "needs a symmetric matrix"),
    ("generalised_wasserstein_dice", "classes", {"distances": [[0.0, 0.0], [0.0, 0.0]]}, "got zeros only"),
    ("unified_focal", "classes", {"gamma": 1.0}, r"loss\.gamma needs a value from 0 to below 1, got 1"),
    ("unified_focal", "classes", {"delta": 0.0}, r"loss\.delta needs a value above 0 and below 1"),
    ("unified_focal", "classes", {"weight": 1.5}, r"loss\.weight needs a value from 0 to 1"),
    ("unified_focal", "classes", {"smooth": 0.0}, r"loss\.smooth needs a value above 0"),
    ("matthews", "classes", {"smooth": 0.0}, r"loss\.smooth needs a value above 0"),
    ("matthews", "regions", {"include_background": True}, "no meaning for overlapping regions"),
]


@pytest.mark.parametrize(("name", "kind", "knobs", "message"), REFUSED)
def test_knobs_without_meaning_are_refused(name, kind, knobs, message):
    with pytest.raises(UsageError, match=message):
        build(name, kind, **knobs)


def test_distances_of_another_number_of_classes_are_refused():
    loss = build("generalised_wasserstein_dice", "classes", distances=[[0.0, 1.0], [1.0, 0.0]])
    with pytest.raises(UsageError, match=r"loss\.distances needs 3 rows, one for each class, got 2"):
        loss(*example("classes"))
