from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchmetrics.functional import mean_absolute_error

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Prediction, StructureClass
from medexp.metrics.count_error import CountError

CONF = Path(__file__).parents[2] / "conf" / "metrics" / "count_error.yaml"
CLASSES = (StructureClass("a", 0, 1), StructureClass("b", 0, 2))


def metric_of(**knobs) -> CountError:
    return CountError(**({"by": "objects", "min_score": 0.0} | knobs))


def case_of(labels, scores=None, *, case_id: str = "x", density: np.ndarray | None = None) -> Prediction:
    objects = Objects.of(np.zeros((len(labels), 4)), np.array(labels), scores)
    maps = {} if density is None else {"density": density}
    return Prediction(case_id, case_id, Geometry.from_spacing((8, 8), (1.0, 1.0)), CLASSES, objects=objects, maps=maps)


def test_the_aggregate_is_the_mean_absolute_error_of_the_counts():
    random = np.random.default_rng(0)
    metric, counts = metric_of(), random.integers(0, 6, size=(10, 2, 2))
    rows = []
    for index, (found, wanted) in enumerate(counts):
        pair = [case_of([1] * own[0] + [2] * own[1], case_id=str(index)) for own in (found, wanted)]
        rows += metric.rows(*pair)
    values = metric.aggregate(rows)
    for place, name in enumerate("ab"):
        found, wanted = torch.from_numpy(counts[:, :, place].astype(np.float64)).unbind(1)
        assert values[name] == pytest.approx(mean_absolute_error(found, wanted).item())
    assert values["mean"] == pytest.approx((values["a"] + values["b"]) / 2)


def test_an_image_without_objects_has_a_row_for_each_class():
    rows = metric_of().rows(case_of([]), case_of([]))
    assert [(row.label, row.value) for row in rows] == [("a", 0.0), ("b", 0.0)]


def test_unsure_objects_are_not_counted():
    prediction = case_of([1, 1, 2], np.array([0.9, 0.5, 0.4]))
    assert [row.value for row in metric_of(min_score=0.5).rows(prediction, case_of([1, 2]))] == [1.0, 1.0]


def test_the_integral_of_a_density_counts_in_fractions():
    density = np.stack([np.full((8, 8), 2.5 / 64), np.zeros((8, 8))])
    rows = metric_of(by="integral").rows(case_of([], density=density), case_of([1, 1, 2]))
    assert [row.value for row in rows] == pytest.approx([0.5, 1.0])


def test_the_option_file_lists_every_knob():
    knobs = OmegaConf.to_container(OmegaConf.load(CONF))["count_error"]
    assert knobs.pop("_target_") == "medexp.metrics.count_error.CountError"
    assert set(knobs) == set(inspect.signature(CountError).parameters)
    definition = CountError(**knobs).definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == definition
    assert definition != metric_of(by="integral").definition()


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="by needs objects or integral, got 'peaks'"):
        metric_of(by="peaks")
    with pytest.raises(UsageError, match="min_score needs a value from 0 to 1"):
        metric_of(min_score=-0.1)
    with pytest.raises(DataError, match=r"case x has no density; set metrics\.count_error\.by=objects"):
        metric_of(by="integral").rows(case_of([]), case_of([]))
    with pytest.raises(DataError, match="was given the prediction of case x"):
        metric_of().rows(case_of([]), case_of([], case_id="y"))
