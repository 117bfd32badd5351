from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from medexp.core.errors import UsageError
from medexp.losses.detector_terms import DetectorTerms

CONF = Path(__file__).parents[2] / "conf" / "loss"
TERMS = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")


def values() -> dict[str, torch.Tensor]:
    return {name: torch.tensor(float(number), requires_grad=True) for number, name in enumerate(TERMS, start=1)}


def test_each_term_is_multiplied_by_its_weight_value_and_gradient():
    weights = dict(zip(TERMS, (1.0, 0.5, 2.0, 0.0, 3.0), strict=True))
    terms = values()
    weighted = DetectorTerms(weights=weights)(terms)
    assert {name: term.item() for name, term in weighted.items()} == dict(
        zip(TERMS, (1.0, 1.0, 6.0, 0.0, 15.0), strict=True)
    )
    torch.stack(list(weighted.values())).sum().backward()
    assert {name: term.grad.item() for name, term in terms.items()} == weights


def test_the_option_file_weighs_every_term_of_torchvision_alike():
    weighted = instantiate(OmegaConf.load(CONF / "detector_terms.yaml"))(values())
    assert [weighted[name].item() for name in TERMS] == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_the_option_file_of_one_stage_leaves_out_what_has_weight_zero_and_refuses_other_detectors():
    one_stage = instantiate(OmegaConf.load(CONF / "one_stage_terms.yaml"))
    terms = {name: torch.tensor(2.0) for name in one_stage.weights}
    assert {name: term.item() for name, term in one_stage(terms).items()} == {
        "loss_classifier": 2.0, "loss_box_reg": 2.0, "loss_box_giou": 0.0, "loss_mask": 2.0, "loss_mask_dice": 0.0,
    }  # fmt: skip
    with pytest.raises(UsageError, match="choose loss=detector_terms for model=mask_rcnn"):
        one_stage(values())


@pytest.mark.parametrize("changed", [{"loss_mask": None}, {"loss_kepoint": 1.0}])
def test_a_term_without_a_weight_and_a_weight_without_a_term_are_refused(changed):
    weights = {name: weight for name, weight in (dict.fromkeys(TERMS, 1.0) | changed).items() if weight is not None}
    with pytest.raises(UsageError, match="needs a weight for each term of the detector"):
        DetectorTerms(weights=weights)(values())


def test_maps_are_refused():
    with pytest.raises(UsageError, match="this task compares maps; choose another loss"):
        DetectorTerms(weights=dict.fromkeys(TERMS, 1.0))(torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize("weights", [{}, {"loss_mask": 0.0}, {"loss_mask": -1.0, "loss_objectness": 1.0}])
def test_weights_that_train_nothing_or_are_negative_are_refused(weights):
    with pytest.raises(UsageError, match="needs weights >= 0, one of them above 0"):
        DetectorTerms(weights=weights)
