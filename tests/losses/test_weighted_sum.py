from __future__ import annotations

import pytest
import torch

from medexp.core.errors import UsageError
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.focal import Focal
from medexp.losses.weighted_sum import WeightedSum

torch.set_num_threads(1)
FOCAL, CROSS_ENTROPY = Focal(sigmoid=False, gamma=2.0, alpha=None), CrossEntropy(sigmoid=False)
LOGITS = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
NESTED = WeightedSum(terms={"a": FOCAL}, weights={"a": 1.0})
TARGET = torch.randint(3, (2, 1, 4, 4), generator=torch.Generator().manual_seed(0))


def test_each_term_is_its_loss_times_its_weight():
    terms = WeightedSum(terms={"a": FOCAL, "b": CROSS_ENTROPY}, weights={"b": 0.5, "a": 3.0})(LOGITS, TARGET)
    assert list(terms) == ["a", "b"]
    assert terms["a"].item() == pytest.approx(3 * FOCAL(LOGITS, TARGET).item())
    assert terms["b"].item() == pytest.approx(0.5 * CROSS_ENTROPY(LOGITS, TARGET).item())


def test_a_term_of_weight_zero_stays_visible_and_does_not_train():
    logits = LOGITS.clone().requires_grad_()
    terms = WeightedSum(terms={"a": FOCAL, "b": CROSS_ENTROPY}, weights={"a": 0.0, "b": 1.0})(logits, TARGET)
    assert terms["a"].item() == 0.0
    (gradient,) = torch.autograd.grad(sum(terms.values()), logits, retain_graph=True)
    (alone,) = torch.autograd.grad(terms["b"], logits)
    assert torch.equal(gradient, alone)


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        ({"a": FOCAL}, {"b": 1.0}, r"needs one weight for each of \['a'\], got \['b'\]"),
        ({"a": FOCAL}, {"a": 1.0, "b": 1.0}, r"needs one weight for each of \['a'\], got \['a', 'b'\]"),
        ({"a": FOCAL}, {"a": -1.0}, "needs weights >= 0, one of them above 0"),
        ({"a": FOCAL, "b": CROSS_ENTROPY}, {"a": 0.0, "b": 0.0}, "one of them above 0"),
        ({"sum": NESTED}, {"sum": 1.0}, r"loss\.terms\.sum is a weighted sum itself"),
    ],
)
def test_weights_that_do_not_fit_are_refused(terms, weights, message):
    with pytest.raises(UsageError, match=message):
        WeightedSum(terms=terms, weights=weights)
