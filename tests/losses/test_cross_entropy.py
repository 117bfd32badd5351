from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

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
