from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from monai.losses import FocalLoss
from torchvision.ops import sigmoid_focal_loss

from medexp.core.errors import UsageError
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.focal import Focal

torch.set_num_threads(1)


def example(kind: str, *, channels: int = 4):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, channels, 5, 6, generator=generator, dtype=torch.float64)
    layers, values = (1, channels) if kind == "classes" else (channels, 2)
    return logits, torch.randint(values, (2, layers, 5, 6), generator=generator, dtype=torch.int16)


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_gamma_zero_is_cross_entropy_in_value_and_gradient(kind):
    logits, target = example(kind)
    gradients = []
    for loss in (Focal(sigmoid=kind == "regions", gamma=0.0, alpha=None), CrossEntropy(sigmoid=kind == "regions")):
        leaf = logits.clone().requires_grad_()
        value = loss(leaf, target)
        value.backward()
        gradients.append((value.detach(), leaf.grad))
    for focal, cross_entropy in zip(*gradients, strict=True):
        torch.testing.assert_close(focal, cross_entropy, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alpha", [None, 0.25, 1.0])
@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_exclusive_classes_follow_the_paper_voxel_by_voxel(gamma, alpha):
    logits, target = example("classes")
    total = 0.0
    for sample, classes in zip(logits.numpy(), target[:, 0].numpy(), strict=True):
        for index in torch.cartesian_prod(torch.arange(5), torch.arange(6)).tolist():
            scores = torch.tensor(sample[(slice(None), *index)])
            truth = int(classes[tuple(index)])
            probability = (scores[truth].exp() / scores.exp().sum()).item()
            weight = 1.0 if alpha is None else alpha if truth > 0 else 1 - alpha
            total -= weight * (1 - probability) ** gamma * torch.tensor(probability).log().item()
    value = Focal(sigmoid=False, gamma=gamma, alpha=alpha)(logits, target)
    assert value.item() == pytest.approx(total / 60, rel=1e-5)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_exclusive_classes_are_monais_loss_times_the_number_of_classes(alpha):
    logits, target = example("classes")
    monai = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0, alpha=alpha)
    assert Focal(sigmoid=False, gamma=2.0, alpha=alpha)(logits, target).item() == pytest.approx(
        4 * monai(logits, target).item(), rel=1e-5
    )


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_overlapping_regions_agree_with_torchvision_and_monai(gamma, alpha):
    logits, target = example("regions")
    value = Focal(sigmoid=True, gamma=gamma, alpha=alpha)(logits, target).item()
    torchvision = sigmoid_focal_loss(
        logits, target.double(), gamma=gamma, alpha=-1 if alpha is None else alpha, reduction="mean"
    )
    assert value == pytest.approx(torchvision.item(), rel=1e-9)
    assert value == pytest.approx(FocalLoss(gamma=gamma, alpha=alpha)(logits, target).item(), rel=1e-5)


def test_one_foreground_class_has_a_gradient_on_background_voxels():
    logits = torch.randn(1, 2, 4, 4, requires_grad=True)
    target = torch.zeros(1, 1, 4, 4, dtype=torch.int16)
    Focal(sigmoid=False, gamma=2.0, alpha=None)(logits, target).backward()
    assert (logits.grad != 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = FocalLoss(include_background=False, to_onehot_y=True, use_softmax=True)(logits, target + 1)
    assert monai.item() == 0.0, "MONAI's form without background, which is why there is no such knob here"


@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 1.0, 2.0])
@pytest.mark.parametrize("size", [0.0, 20.0, 1e4])
def test_sure_voxels_keep_loss_and_gradient_finite(sigmoid, gamma, size):
    logits = (torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) * size)[None].requires_grad_()
    target = torch.ones(1, 2 if sigmoid else 1, 2, dtype=torch.int16)
    loss = Focal(sigmoid=sigmoid, gamma=gamma, alpha=None)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_easy_voxels_lose_weight_with_gamma():
    easy, hard = torch.tensor([[4.0, 0.0]])[..., None], torch.tensor([[0.0, 4.0]])[..., None]
    target = torch.zeros(1, 1, 1, dtype=torch.int16)

    def ratio(gamma: float) -> float:
        focal = Focal(sigmoid=False, gamma=gamma, alpha=None)
        return (focal(hard, target) / focal(easy, target)).item()

    assert ratio(2.0) > 100 * ratio(0.0)
    assert ratio(0.0) == pytest.approx(
        (F.cross_entropy(hard, target[:, 0].long()) / F.cross_entropy(easy, target[:, 0].long())).item()
    )


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"gamma": -1.0, "alpha": None}, r"loss\.gamma needs a value >= 0, got -1"),
        ({"gamma": 2.0, "alpha": 1.5}, r"loss\.alpha needs a value in \[0, 1\] or null, got 1\.5"),
        ({"gamma": 2.0, "alpha": -0.1}, r"loss\.alpha needs a value in \[0, 1\]"),
    ],
)
def test_values_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        Focal(sigmoid=False, **knobs)
