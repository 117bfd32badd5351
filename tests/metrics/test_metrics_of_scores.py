"""What every metric of labels of whole images promises; an option file that is added is tested by itself."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class, instantiate
from labelled_images import findings, grades, rows_of, scored, value_of
from omegaconf import OmegaConf

from medexp.core.errors import DataError
from medexp.core.types import Kind

CONF = Path(__file__).parents[2] / "conf" / "metrics"


def _of_scores() -> dict[str, dict]:
    found = {name: node for file in CONF.glob("*.yaml") for name, node in OmegaConf.load(file).items()}
    return {name: node for name, node in found.items() if get_class(node._target_).takes == Kind.SCORES}


OPTIONS = _of_scores()
OF_SEVERAL = {"auroc", "average_precision", "brier", "f1"}


@pytest.fixture(params=sorted(OPTIONS))
def configured(request):
    """Name, configuration and metric of each option."""
    return request.param, OPTIONS[request.param], instantiate(OPTIONS[request.param])


def test_the_option_lists_every_knob_and_has_its_own_name_in_rows(configured):
    name, config, metric = configured
    knobs = inspect.signature(get_class(config._target_)).parameters
    assert set(config) - {"_target_"} == {knob for knob in knobs if knob not in ("args", "kwargs")}
    assert metric.name == name


def test_the_definition_can_be_stored(configured):
    _, _, metric = configured
    definition = metric.definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == definition
    assert definition["better"] == ("higher" if metric.higher_is_better else "lower")


def test_sure_and_right_has_the_best_value_and_the_scores_of_others_a_worse_one(configured):
    _, _, metric = configured
    scores, truths = grades(0)
    best = value_of(metric, np.eye(4)[truths], truths)["mean"]
    others = value_of(metric, scores[::-1], truths)["mean"]
    assert best == float(metric.higher_is_better)
    assert (best > others + 0.05) if metric.higher_is_better else (best < others - 0.05)


def test_the_order_of_the_images_does_not_matter(configured):
    _, _, metric = configured
    scores, truths = grades(1)
    found = value_of(metric, scores[::-1], truths[::-1])
    assert found == pytest.approx(value_of(metric, scores, truths), abs=1e-12)


def test_rows_name_case_group_metric_and_class(configured):
    name, _, metric = configured
    for row in rows_of(metric, *grades(0, cases=3)):
        assert (row.group, row.metric) == (f"group of {row.case_id}", name)
        assert row.label in "abcd"


@pytest.mark.parametrize("name", sorted(OF_SEVERAL))
def test_several_labels_at_once_serve(name):
    found = value_of(instantiate(OPTIONS[name]), *findings(0), exclusive=False)
    assert list(found) == ["a", "b", "c", "mean"]


def test_a_prediction_of_another_case_is_refused(configured):
    _, _, metric = configured
    with pytest.raises(DataError, match="another case"):
        metric.rows(scored("x", [1, 0, 0]), scored("y", [1, 0, 0]))
