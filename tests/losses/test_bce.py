from __future__ import annotations

import pytest
import torch
from loss_examples import example
from torch import nn

from medexp.core.errors import UsageError
from medexp.losses.bce import BinaryCrossEntropy
from medexp.losses.cross_entropy import CrossEntropy


@pytest.mark.parametrize("pos_weight", [None, [0.5, 2.0, 7.0]])
def test_of_labels_of_images_it_is_that_of_torch(pos_weight):
    logits, target = example("regions", batch=6, shape=())
    reference = nn.BCEWithLogitsLoss(pos_weight=None if pos_weight is None else torch.tensor(pos_weight))
    found = BinaryCrossEntropy(sigmoid=True, pos_weight=pos_weight)(logits, target)
    torch.testing.assert_close(found, reference(logits, target.double()))


@pytest.mark.parametrize("shape", [(5, 4), (3, 4, 2)])
def test_the_factors_lie_along_the_channels_of_maps(shape):
    logits, target = example("regions", shape=shape)
    reference = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([0.5, 2.0, 7.0]))
    expected = reference(logits.movedim(1, -1), target.movedim(1, -1).double())
    torch.testing.assert_close(BinaryCrossEntropy(sigmoid=True, pos_weight=[0.5, 2.0, 7.0])(logits, target), expected)


def test_negatives_over_positives_makes_yes_and_no_pull_alike():
    target = torch.tensor([[1], [0], [0], [0], [0]])
    logits = torch.zeros(5, 1, dtype=torch.float64, requires_grad=True)
    BinaryCrossEntropy(sigmoid=True, pos_weight=[4.0])(logits, target).backward()
    assert logits.grad.sum().item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_without_factors_it_is_cross_entropy_of_regions(label_smoothing):
    logits, target = example("regions")
    other = CrossEntropy(sigmoid=True, label_smoothing=label_smoothing)
    found = BinaryCrossEntropy(sigmoid=True, label_smoothing=label_smoothing)(logits, target)
    torch.testing.assert_close(found, other(logits, target))


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match="loss=bce is of labels or regions that may hold at once"):
        BinaryCrossEntropy(sigmoid=False)
    with pytest.raises(UsageError, match=r"loss\.pos_weight needs values >= 0"):
        BinaryCrossEntropy(sigmoid=True, pos_weight=[-1.0])
    with pytest.raises(UsageError, match=r"loss\.label_smoothing needs a value from 0"):
        BinaryCrossEntropy(sigmoid=True, label_smoothing=1.0)
    with pytest.raises(UsageError, match=r"loss\.pos_weight needs 3 values"):
        BinaryCrossEntropy(sigmoid=True, pos_weight=[1.0])(*example("regions"))
