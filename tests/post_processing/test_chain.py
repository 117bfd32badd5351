from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.post_processing.argmax import Argmax
from medexp.post_processing.chain import Chain
from medexp.post_processing.keep_largest import KeepLargest
from medexp.post_processing.remove_small import RemoveSmall
from medexp.post_processing.threshold import Threshold

CONF = Path(__file__).parents[2] / "conf" / "post_processing"
NAMES = ("argmax", "keep_largest", "remove_small", "threshold")


@pytest.fixture
def soft(predict):
    return predict(probabilities=np.random.default_rng(3).dirichlet([1, 1, 1], size=(9, 8)).transpose(2, 0, 1))


def test_chain_applies_its_steps_in_order(soft):
    small_first = Chain([Argmax(), RemoveSmall(min_volume_mm3=3.0, connectivity="faces"), KeepLargest()])
    expected = KeepLargest()(RemoveSmall(min_volume_mm3=3.0, connectivity="faces")(Argmax()(soft)))
    assert np.array_equal(small_first(soft).mask, expected.mask)


def test_chain_may_hold_a_step_twice(soft):
    liver, spleen = (RemoveSmall(min_volume_mm3=4.0, classes=[name]) for name in ("liver", "spleen"))
    both = Chain([Argmax(), liver, spleen])(soft).mask
    assert np.array_equal(both, Chain([Argmax(), RemoveSmall(min_volume_mm3=4.0)])(soft).mask)
    assert not np.array_equal(both, Chain([Argmax(), liver])(soft).mask)


def test_chain_leaves_its_argument_as_it_was(soft):
    before = soft.probabilities.copy()
    Chain([Argmax(), KeepLargest()])(soft)
    assert soft.mask is None
    assert np.array_equal(soft.probabilities, before)


def test_chain_is_a_step_itself(soft):
    inner = Chain([KeepLargest(), RemoveSmall(min_volume_mm3=2.0)], takes=Kind.MASK)
    outer = Chain([Argmax(), inner])
    assert (inner.takes, inner.gives, outer.takes, outer.gives) == (
        Kind.MASK, Kind.MASK, Kind.PROBABILITIES, Kind.MASK
    )  # fmt: skip
    flat = Chain([Argmax(), KeepLargest(), RemoveSmall(min_volume_mm3=2.0)])
    assert np.array_equal(outer(soft).mask, flat(soft).mask)


def test_chain_refuses_a_first_step_that_takes_a_mask():
    message = (
        r"post_processing\[0\] \(KeepLargest\) takes mask, but the task gives probabilities; "
        r"put argmax \(exclusive classes\) or threshold \(overlapping regions\) at that place"
    )
    with pytest.raises(UsageError, match=message):
        Chain([KeepLargest(), Argmax()])


def test_chain_refuses_a_step_that_takes_what_the_one_before_it_consumed():
    message = (
        r"post_processing\[2\] \(Threshold\) takes probabilities, but post_processing\[1\] \(KeepLargest\) gives mask; "
        r"move it before the step that makes mask, or remove it"
    )
    with pytest.raises(UsageError, match=message):
        Chain([Argmax(), KeepLargest(), Threshold()])


def test_chain_refuses_an_end_that_is_not_asked_for():
    message = r"post_processing must end with instances, but post_processing\[0\] \(Argmax\) gives mask; put a step"
    with pytest.raises(UsageError, match=message):
        Chain([Argmax()], gives=Kind.INSTANCES)


def test_empty_chain_is_refused_where_something_must_change():
    with pytest.raises(
        UsageError, match=r"an empty post_processing must end with mask, but the task gives prob.*argmax"
    ):
        Chain([])


def test_empty_chain_gives_back_what_it_gets(soft):
    assert Chain([], gives=Kind.PROBABILITIES)(soft) is soft


def test_chain_refuses_what_is_no_step():
    with pytest.raises(UsageError, match=r"post_processing\[1\] \(dict\) is no step.*check its _target_"):
        Chain([Argmax(), {"_target_": "medexp.post_processing.keep_largest.KeepLargest"}])


@pytest.mark.parametrize("name", NAMES)
def test_option_file_lists_every_knob(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    knobs = inspect.signature(get_class(config._target_).__init__).parameters
    keywords = {key for key, knob in knobs.items() if knob.kind is inspect.Parameter.KEYWORD_ONLY}
    assert set(config) - {"_target_"} == keywords
    assert len(keywords) == len(knobs) - 1 or get_class(config._target_).__init__ is object.__init__
    instantiate(config)


def test_chain_of_option_files_runs(soft):
    names = ("argmax", "keep_largest", "remove_small")
    steps = instantiate([OmegaConf.load(CONF / f"{name}.yaml") for name in names])
    by_hand = [Argmax(), KeepLargest(), RemoveSmall(min_volume_mm3=10.0)]
    assert np.array_equal(Chain(steps)(soft).mask, Chain(by_hand)(soft).mask)


def test_classes_from_a_configuration_reach_the_step(predict):
    config = OmegaConf.load(CONF / "keep_largest.yaml")
    config.classes = ["liver"]
    mask = np.array([[[1, 0, 1, 1, 0, 3, 0, 3]]], dtype=np.uint8)
    assert instantiate(config)(predict(mask=mask)).mask.tolist() == [[[0, 0, 1, 1, 0, 3, 0, 3]]]
