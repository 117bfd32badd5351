from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_examples import example

from medexp.core.errors import UsageError
from medexp.losses.asymmetric import Asymmetric
from medexp.losses.focal import Focal


def loss_of(*, sigmoid: bool = True, positive: float = 0.0, negative: float = 4.0, margin: float = 0.05) -> Asymmetric:
    return Asymmetric(sigmoid=sigmoid, gamma_positive=positive, gamma_negative=negative, margin=margin)


@pytest.mark.parametrize("knobs", [(0.0, 4.0, 0.05), (1.0, 4.0, 0.2), (0.5, 2.0, 0.0), (0.0, 0.0, 0.3)])
@pytest.mark.parametrize("shape", [(), (5, 4), (3, 4, 2)])
def test_it_is_the_formula_of_the_paper(knobs, shape):
    positive, negative, margin = knobs
    logits, target = example("regions", shape=shape)
    p = logits.sigmoid()
    shifted = (p - margin).clamp_min(0)
    true, false = (1 - p) ** positive * p.log(), shifted**negative * (1 - shifted).log()
    expected = -(target * true + (1 - target) * false).mean()
    torch.testing.assert_close(loss_of(positive=positive, negative=negative, margin=margin)(logits, target), expected)


def test_without_exponents_and_margin_it_is_binary_cross_entropy():
    logits, target = example("regions")
    expected = F.binary_cross_entropy_with_logits(logits, target.double())
    torch.testing.assert_close(loss_of(negative=0.0, margin=0.0)(logits, target), expected)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_with_equal_exponents_and_no_margin_it_is_the_focal_loss(gamma):
    logits, target = example("regions")
    expected = Focal(sigmoid=True, gamma=gamma, alpha=None)(logits, target)
    torch.testing.assert_close(loss_of(positive=gamma, negative=gamma, margin=0.0)(logits, target), expected)


def test_a_false_label_up_to_the_margin_has_neither_loss_nor_gradient():
    logits = torch.logit(torch.tensor([[0.001, 0.049, 0.3]], dtype=torch.float64)).requires_grad_()
    loss = loss_of(negative=1.0)
    loss(logits[:, :2], torch.zeros(1, 2)).backward()
    assert logits.grad.tolist() == [[0, 0, 0]]
    assert loss(logits[:, :2], torch.zeros(1, 2)).item() == pytest.approx(0, abs=1e-12)
    assert loss(logits[:, 2:], torch.zeros(1, 1)).item() > 0.01


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("negative", [0.0, 0.5, 4.0])
def test_sure_answers_leave_loss_and_gradient_finite(margin, negative):
    logits = torch.tensor([[-1e4, -80.0, 80.0, 1e4]], requires_grad=True)
    for target in (torch.zeros(1, 4), torch.ones(1, 4)):
        value = loss_of(positive=0.5, negative=negative, margin=margin)(logits, target)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match="loss=asymmetric is of labels or regions that may hold at once"):
        loss_of(sigmoid=False)
    with pytest.raises(UsageError, match=r"loss\.gamma_negative needs a value >= 0, got -1"):
        loss_of(negative=-1.0)
    with pytest.raises(UsageError, match=r"loss\.margin needs a value from 0 to below 1, got 1"):
        loss_of(margin=1.0)
