from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from medexp.core.errors import UsageError
from medexp.losses.dice import Dice

torch.set_num_threads(1)
KNOBS = {
    "include_background": False,
    "squared_pred": False,
    "jaccard": False,
    "smooth_nr": 1e-5,
    "smooth_dr": 1e-5,
    "batch": False,
    "weight": None,
}


def dice(kind: str, **knobs) -> Dice:
    return Dice(sigmoid=kind == "regions", **(KNOBS | knobs))


def example(kind: str, *, channels: int = 3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, channels, 5, 6, generator=generator, dtype=torch.float64)
    layers, values = (1, channels) if kind == "classes" else (channels, 2)
    return logits, torch.randint(values, (2, layers, 5, 6), generator=generator, dtype=torch.int16)


def by_hand(
    kind, logits, target, *, include_background, squared_pred, jaccard, smooth_nr, smooth_dr, batch, weight
) -> float:
    """One minus 2 |PG| / (|P| + |G|), or |PG| / |P or G|, class by class and image by image."""
    if kind == "classes":
        soft = logits.softmax(dim=1)
        truth = F.one_hot(target[:, 0].long(), logits.shape[1]).movedim(-1, 1).double()
        if not include_background:
            soft, truth = soft[:, 1:], truth[:, 1:]
    else:
        soft, truth = logits.sigmoid(), target.double()
    groups = [slice(None)] if batch else [slice(i, i + 1) for i in range(len(logits))]
    losses = []
    for group in groups:
        for c in range(soft.shape[1]):
            p, g = soft[group, c], truth[group, c]
            both = (p * g).sum()
            sizes = (p**2 + g**2).sum() if squared_pred else (p + g).sum()
            # The smoothing terms stand beside twice the counts, in both forms.
            below = 2 * (sizes - both) if jaccard else sizes
            loss = 1 - (2 * both + smooth_nr) / (below + smooth_dr)
            losses.append(loss * (1 if weight is None else weight[c]))
    return torch.stack(losses).mean().item()


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"include_background": True},
        {"squared_pred": True},
        {"jaccard": True},
        {"jaccard": True, "squared_pred": True},
        {"smooth_nr": 0.5, "smooth_dr": 2.0},
        {"smooth_nr": 0.0},
        {"batch": True},
        {"weight": [1.0, 3.0]},
        {"weight": [0.0, 1.0], "batch": True},
        {"weight": [1.0, 2.0, 3.0], "include_background": True},
    ],
)
def test_exclusive_classes_follow_the_formula(knobs):
    logits, target = example("classes")
    assert dice("classes", **knobs)(logits, target).item() == pytest.approx(
        by_hand("classes", logits, target, **(KNOBS | knobs)), rel=1e-6
    )


@pytest.mark.parametrize(
    "knobs", [{}, {"squared_pred": True}, {"jaccard": True}, {"batch": True}, {"weight": [1.0, 3.0, 0.5]}]
)
def test_overlapping_regions_all_count(knobs):
    logits, target = example("regions")
    assert dice("regions", **knobs)(logits, target).item() == pytest.approx(
        by_hand("regions", logits, target, **(KNOBS | knobs)), rel=1e-6
    )


@pytest.mark.parametrize(
    "knobs", [{"include_background": True}, {"squared_pred": True}, {"jaccard": True}, {"batch": True}]
)
def test_exclusive_classes_agree_with_monai(knobs):
    logits, target = example("classes")
    chosen = {key: value for key, value in (KNOBS | knobs).items() if key != "weight"}
    monai = DiceLoss(softmax=True, to_onehot_y=True, **chosen)
    assert dice("classes", **knobs)(logits, target).item() == pytest.approx(monai(logits, target).item(), rel=1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_region_has_a_gradient(channels):
    logits, target = example("regions", channels=channels)
    logits.requires_grad_()
    dice("regions")(logits, target).backward()
    assert (logits.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_the_weight_of_a_single_class_counts():
    logits, target = example("classes", channels=2)
    plain, doubled = (dice("classes", weight=weight)(logits, target) for weight in (None, [2.0]))
    assert doubled.item() == pytest.approx(2 * plain.item())


def test_a_perfect_prediction_has_no_loss_and_an_opposite_one_all_of_it():
    target = torch.tensor([[[0, 1, 2, 2]]], dtype=torch.int16)
    perfect = 100.0 * F.one_hot(target[:, 0].long(), 3).movedim(-1, 1).double()
    assert dice("classes")(perfect, target).item() == pytest.approx(0.0, abs=1e-6)
    assert dice("classes")(perfect.roll(1, dims=1), target).item() == pytest.approx(1.0, abs=1e-5)


def test_a_class_that_is_absent_and_not_predicted_has_no_loss():
    target = torch.zeros(1, 1, 4, 4, dtype=torch.int16)
    sure = torch.stack([torch.full((1, 4, 4), 50.0), torch.full((1, 4, 4), -50.0)], dim=1)
    assert dice("classes")(sure, target).item() == pytest.approx(0.0, abs=1e-6)


def test_the_loss_does_not_depend_on_the_dimension():
    logits, target = example("classes")
    flat = dice("classes")(logits.flatten(2), target.flatten(2))
    assert flat.item() == pytest.approx(dice("classes")(logits, target).item())
    volume = dice("classes")(logits.reshape(2, 3, 5, 3, 2), target.reshape(2, 1, 5, 3, 2))
    assert volume.item() == pytest.approx(flat.item())


@pytest.mark.parametrize(
    ("kind", "knobs", "message"),
    [
        ("regions", {"include_background": True}, "include_background=true has no meaning for overlapping regions"),
        ("classes", {"smooth_dr": 0.0}, "needs smooth_nr >= 0 and smooth_dr > 0"),
        ("classes", {"smooth_nr": -1.0}, "needs smooth_nr >= 0 and smooth_dr > 0"),
        (
            "classes",
            {"weight": [1.0, -1.0]},
            r"loss\.weight needs values >= 0, one of them above 0, got \[1\.0, -1\.0\]",
        ),
        ("classes", {"weight": [0.0, 0.0]}, r"loss\.weight needs values >= 0, one of them above 0"),
        ("classes", {"weight": []}, r"loss\.weight needs values >= 0, one of them above 0"),
    ],
)
def test_settings_without_meaning_are_refused(kind, knobs, message):
    with pytest.raises(UsageError, match=message):
        dice(kind, **knobs)


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_a_weight_too_many_is_refused(kind):
    logits, target = example(kind)
    counted = 2 if kind == "classes" else 3
    with pytest.raises(UsageError, match=rf"loss\.weight needs {counted} values, one for each class that counts"):
        dice(kind, weight=[1.0] * (counted + 1))(logits, target)
