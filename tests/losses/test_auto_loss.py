from __future__ import annotations

import pytest
import torch
from torch import nn

from medexp.core.errors import UsageError
from medexp.losses.auto import Auto, choose

ORGAN = {"organ": 0.2}
BOTH = {"organ": 0.2, "lesion": 0.004}


@pytest.mark.parametrize(
    ("shares", "overlapping", "option"),
    [
        (ORGAN, False, "two_classes"),
        ({"organ": 0.01}, False, "two_classes"),
        ({"organ": 0.0099}, False, "imbalanced"),
        ({"organ": 0.2, "vessel": 0.02}, False, "several_classes"),
        (BOTH, False, "imbalanced"),
        ({"organ": 0.2, "absent": 0.0}, False, "imbalanced"),
        (ORGAN, True, "two_classes"),
        ({"lesion": 0.004}, True, "imbalanced"),
        (BOTH, True, "several_classes"),
    ],
)
def test_the_rule_looks_at_classes_and_at_the_rarest_one(shares, overlapping, option):
    assert choose(shares, overlapping=overlapping, imbalance_below=0.01).option == option


def test_the_reason_names_the_rarest_class_and_its_share():
    assert choose(BOTH, overlapping=False, imbalance_below=0.01).reason == (
        "the background competes, and lesion has 0.40% of the voxels, fewer than 1.00%"
    )


def test_a_threshold_of_zero_never_calls_a_class_rare():
    assert choose({"organ": 0.0}, overlapping=False, imbalance_below=0.0).option == "two_classes"


def test_an_open_choice_trains_nothing():
    auto = Auto(two_classes=nn.Identity(), several_classes=nn.Identity(), imbalanced=nn.Identity(), imbalance_below=0.1)
    with pytest.raises(UsageError, match="loss=auto is chosen when training starts"):
        auto(torch.zeros(1, 2, 3), torch.zeros(1, 1, 3))


def test_a_threshold_that_is_no_share_is_refused():
    with pytest.raises(UsageError, match=r"loss\.imbalance_below needs a share from 0 to 1, got 5"):
        Auto(two_classes=nn.Identity(), several_classes=nn.Identity(), imbalanced=nn.Identity(), imbalance_below=5.0)
