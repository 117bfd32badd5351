from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from medexp.core.errors import UsageError
from medexp.losses.cross_entropy import CrossEntropy

torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(6,), (5, 4), (3, 4, 5)])
def test_exclusive_classes_get_torchs_cross_entropy(shape):
    logits, target = torch.randn(2, 4, *shape), torch.randint(4, (2, 1, *shape), dtype=torch.int16)
    assert torch.equal(CrossEntropy(sigmoid=False)(logits, target), F.cross_entropy(logits, target[:, 0].long()))


def test_overlapping_regions_get_the_binary_form_of_each():
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(2, (2, 3, 5, 4), dtype=torch.int16)
    probability = logits.double().sigmoid()
    expected = -(target * probability.log() + (1 - target) * (1 - probability).log()).mean()
    assert CrossEntropy(sigmoid=True)(logits, target).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_extreme_logits_keep_loss_and_gradient_finite(sigmoid):
    logits = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]]).reshape(1, 2, 2).requires_grad_()
    target = torch.ones(1, 2 if sigmoid else 1, 2, dtype=torch.int16)
    loss = CrossEntropy(sigmoid=sigmoid)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_weights_and_smoothing_of_exclusive_classes_are_torchs(smoothing):
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(3, (2, 1, 5, 4), dtype=torch.int16)
    weight = [0.5, 2.0, 0.0]
    expected = F.cross_entropy(
        logits, target[:, 0].long(), weight=torch.tensor(weight), label_smoothing=smoothing
    ).item()
    for top_k in (None, 100.0):
        loss = CrossEntropy(sigmoid=False, weight=weight, label_smoothing=smoothing, top_k_percent=top_k)
        assert loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_regions_are_those_of_a_weighted_mean_of_their_losses():
    logits, target = torch.randn(2, 3, 5, 4), torch.randint(2, (2, 3, 5, 4), dtype=torch.int16)
    each = [CrossEntropy(sigmoid=True)(logits[:, [i]], target[:, [i]]).item() for i in range(3)]
    weighted = CrossEntropy(sigmoid=True, weight=[1.0, 3.0, 0.0])(logits, target)
    assert weighted.item() == pytest.approx((each[0] + 3 * each[1]) / 4, rel=1e-5)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_only_the_worst_voxels_of_the_batch_count(sigmoid):
    logits = torch.randn(2, 3, 5, 4)
    target = torch.randint(2, (2, 3 if sigmoid else 1, 5, 4), dtype=torch.int16)
    if sigmoid:
        losses = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    else:
        losses = F.cross_entropy(logits, target[:, 0].long(), reduction="none")
    worst = sorted(losses.flatten().tolist(), reverse=True)
    count = len(worst) // 5
    loss = CrossEntropy(sigmoid=sigmoid, top_k_percent=20.0)
    assert loss(logits, target).item() == pytest.approx(sum(worst[:count]) / count, rel=1e-5)
    assert CrossEntropy(sigmoid=sigmoid, top_k_percent=1e-3)(logits, target).item() == pytest.approx(worst[0])


def test_an_image_of_classes_without_weight_has_no_loss():
    logits = torch.randn(1, 2, 3, requires_grad=True)
    loss = CrossEntropy(sigmoid=False, weight=[0.0, 1.0])(logits, torch.zeros(1, 1, 3))
    loss.backward()
    assert loss.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"label_smoothing": 1.0}, r"loss\.label_smoothing needs a value from 0 to below 1, got 1"),
        ({"top_k_percent": 0.0}, r"loss\.top_k_percent needs a value above 0, at most 100, or null, got 0"),
        ({"top_k_percent": 101.0}, r"loss\.top_k_percent needs"),
        ({"weight": [-1.0, 1.0]}, r"loss\.weight needs values >= 0"),
    ],
)
def test_values_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        CrossEntropy(sigmoid=False, **knobs)


def test_a_weight_for_the_wrong_number_of_classes_is_refused():
    with pytest.raises(UsageError, match=r"loss\.weight needs 3 values"):
        CrossEntropy(sigmoid=False, weight=[1.0, 2.0])(torch.randn(1, 3, 4), torch.zeros(1, 1, 4))
