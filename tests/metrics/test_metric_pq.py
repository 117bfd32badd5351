from __future__ import annotations

import inspect
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from scipy import ndimage
from torchmetrics.detection import PanopticQuality as Torchmetrics

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.overlaps import overlaps
from medexp.core.types import EvidenceRow, Outcome, Prediction, StructureClass
from medexp.metrics.pq import PanopticQuality

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf" / "metrics"
CLASSES = (StructureClass("plain", 0, 1), StructureClass("mitotic", 0, 2))


def predict(instances: np.ndarray, labels: list[int] | None = None, *, case_id: str = "a", valid=None) -> Prediction:
    """A prediction or reference with instances 1..n; all of the first class unless labels are given."""
    labels = [1] * int(instances.max(initial=0)) if labels is None else labels
    objects = Objects.of_instances(instances, dict(enumerate(labels, start=1)))
    geometry = Geometry.from_spacing(instances.shape, (1.0,) * instances.ndim)
    return Prediction(
        case_id, f"patient_{case_id}", geometry, CLASSES, instances=instances, objects=objects, valid=valid
    )


def line(*lengths: int, start: int = 1) -> np.ndarray:
    """Instances of the given lengths in a row of 40 voxels; a negative length is a gap."""
    found, place, number = np.zeros((1, 40), dtype=np.int32), 0, start
    for length in lengths:
        if length > 0:
            found[0, place : place + length] = number
            number += 1
        place += abs(length)
    return found


def outcomes(prediction: Prediction, reference: Prediction, **knobs) -> list[tuple[str, str, float]]:
    rows = PanopticQuality(**knobs).rows(prediction, reference)
    return [(row.label, row.outcome, row.value) for row in rows]


def random_maps(seed: int) -> tuple[Prediction, Prediction]:
    """Ragged instances and the same ones damaged: moved, joined, divided, renamed, left out and invented."""
    rng = np.random.default_rng(seed)
    shape = (30, 34) if seed % 2 else (9, 14, 15)
    reference, n = ndimage.label(ndimage.gaussian_filter(rng.normal(size=shape), 1.2) > rng.uniform(-0.1, 0.15))
    predicted = np.roll(reference, rng.integers(0, 2, len(shape)), axis=range(len(shape)))
    predicted[predicted == rng.integers(1, n + 1)] = 0
    predicted[predicted == rng.integers(1, n + 1)] = rng.integers(1, n + 1)
    predicted[(predicted == rng.integers(1, n + 1)) & (rng.random(shape) < 0.3)] = n + 1
    predicted[(predicted == 0) & (rng.random(shape) < 0.01)] = n + 2
    predicted = np.unique(predicted, return_inverse=True)[1].reshape(shape).astype(np.int32)
    predicted[predicted == 0] = 0
    labels = [rng.integers(1, 3, int(ids.max())).tolist() for ids in (predicted, reference)]
    for number in range(1, int(predicted.max()) + 1):  # mostly the class of what it lies on
        below = np.bincount(reference[predicted == number]).argmax()
        if below and rng.random() < 0.8:
            labels[0][number - 1] = labels[1][below - 1]
    return predict(predicted, labels[0], case_id=str(seed)), predict(
        reference.astype(np.int32), labels[1], case_id=str(seed)
    )


def as_category_and_id(prediction: Prediction, *, void: int = 3) -> torch.Tensor:
    """(1, voxels, 2) for torchmetrics: class (background is 0, unannotated an unknown one) and instance."""
    category = np.array([0, *prediction.objects.labels])[prediction.instances]
    if prediction.valid is not None:
        category = np.where(prediction.valid, category, void)
    stacked = np.stack([category.ravel(), prediction.instances.ravel()], axis=-1)
    return torch.from_numpy(stacked[None].astype(np.int64))


def by_torchmetrics(pairs: list[tuple[Prediction, Prediction]]) -> list[dict[str, float]]:
    """PQ, SQ and RQ of both classes over all pairs; the background is a class that is not read."""
    oracle = Torchmetrics({1, 2}, {0}, return_sq_and_rq=True, return_per_class=True)
    for prediction, reference in pairs:
        oracle.update(as_category_and_id(prediction), as_category_and_id(reference))
    values = oracle.compute()
    place = oracle.cat_id_to_continuous_id
    return [{c.name: float(values[place[c.value], part]) for c in CLASSES} for part in range(3)]


def quality_of(pairs: list[tuple[Prediction, Prediction]], **knobs) -> dict[str, float]:
    metric = PanopticQuality(**knobs)
    found = metric.aggregate([row for pair in pairs for row in metric.rows(*pair)])
    found.pop("mean")
    return found


@pytest.mark.parametrize("seed", range(16))
def test_each_case_agrees_with_torchmetrics(seed):
    pair = random_maps(seed)
    for quality, expected in zip(("pq", "sq", "rq"), by_torchmetrics([pair]), strict=True):
        found = quality_of([pair], quality=quality)
        assert {name: 0.0 if math.isnan(value) else value for name, value in found.items()} == pytest.approx(expected)


def test_pooled_value_agrees_with_torchmetrics():
    pairs = [random_maps(seed) for seed in range(16)]
    for quality, expected in zip(("pq", "sq", "rq"), by_torchmetrics(pairs), strict=True):
        assert quality_of(pairs, quality=quality) == pytest.approx(expected)
        assert min(expected.values()) > 0.1  # something matches, and something does not
        assert max(expected.values()) < 0.95


@pytest.mark.parametrize("seed", range(16))
def test_unannotated_voxels_agree_with_torchmetrics(seed):
    prediction, reference = random_maps(seed)
    valid = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=reference.instances.shape), 2.0) > -0.02
    pair = (prediction, replace(reference, valid=valid))
    for quality, expected in zip(("pq", "sq", "rq"), by_torchmetrics([pair]), strict=True):
        found = quality_of([pair], quality=quality)
        assert {name: 0.0 if math.isnan(value) else value for name, value in found.items()} == pytest.approx(expected)


def by_dense_loops(prediction: Prediction, reference: Prediction) -> dict[str, float]:
    """Eq. 1 of Kirillov et al., pair by pair."""
    found = {}
    for c in CLASSES:
        own = [
            [each.instances == k for k, label in enumerate(each.objects.labels, start=1) if label == c.value]
            for each in (prediction, reference)
        ]
        ious = [(p & r).sum() / (p | r).sum() for p in own[0] for r in own[1]]
        matches = [iou for iou in ious if iou > 0.5]
        either = (len(own[0]) + len(own[1])) / 2
        found[c.name] = sum(matches) / either if either else math.nan
    return found


@pytest.mark.parametrize("seed", range(8))
def test_each_case_agrees_with_the_formula(seed):
    pair = random_maps(seed)
    assert quality_of([pair]) == pytest.approx(by_dense_loops(*pair), nan_ok=True)


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_agree_with_dense_loops(seed):
    prediction, reference = (each.instances for each in random_maps(seed))
    expected = {}
    for p in range(1, prediction.max() + 1):
        for r in range(1, reference.max() + 1):
            both = ((prediction == p) & (reference == r)).sum()
            if both:
                expected[p, r] = both / ((prediction == p) | (reference == r)).sum()
    pairs = overlaps(prediction, reference)
    found = dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), pairs.iou, strict=True))
    assert found == pytest.approx(expected)


def test_a_match_has_a_row_with_its_iou_and_the_rest_are_misses_and_false_alarms():
    prediction = predict(line(-1, 5, -4, 6, -4, 2))
    reference = predict(line(6, -14, 3), labels=[1, 2])
    assert outcomes(prediction, reference) == [
        ("plain", Outcome.MATCH, pytest.approx(5 / 6)),
        ("plain", Outcome.FALSE_ALARM, pytest.approx(math.nan, nan_ok=True)),
        ("plain", Outcome.FALSE_ALARM, pytest.approx(math.nan, nan_ok=True)),
        ("mitotic", Outcome.MISS, pytest.approx(math.nan, nan_ok=True)),
    ]


def test_rows_name_case_group_and_metric():
    rows = PanopticQuality(quality="rq").rows(predict(line(5), case_id="b"), predict(line(5), case_id="b"))
    assert {(row.case_id, row.group, row.metric) for row in rows} == {("b", "patient_b", "rq")}


def test_a_class_that_neither_has_gives_one_row():
    empty = predict(line())
    assert [row[:2] for row in outcomes(empty, empty)] == [("plain", Outcome.NONE), ("mitotic", Outcome.NONE)]


def test_an_empty_prediction_misses_all_and_an_empty_reference_makes_all_false_alarms():
    some, none = predict(line(3, -1, 4)), predict(line())
    assert [row[1] for row in outcomes(none, some)] == [Outcome.MISS, Outcome.MISS, Outcome.NONE]
    assert [row[1] for row in outcomes(some, none)] == [Outcome.FALSE_ALARM, Outcome.FALSE_ALARM, Outcome.NONE]
    assert quality_of([(none, some)])["plain"] == quality_of([(some, none)])["plain"] == 0.0
    assert math.isnan(quality_of([(none, some)], quality="sq")["plain"])


def test_equal_instances_have_the_best_value_whatever_their_numbers():
    reference = predict(line(3, 4, -2, 5), labels=[1, 2, 1])
    turned = predict(np.array([0, 3, 1, 2])[reference.instances], labels=[2, 1, 1])
    for quality in ("pq", "sq", "rq"):
        assert quality_of([(turned, reference)], quality=quality) == {"plain": 1.0, "mitotic": 1.0}


def test_one_object_over_many_matches_the_one_that_makes_up_most_of_it():
    prediction = predict(line(10))
    assert [row[1] for row in outcomes(prediction, predict(line(6, 2, 2)))][:3] == ["match", "miss", "miss"]
    assert [row[1] for row in outcomes(prediction, predict(line(5, 5)))][:3] == ["miss", "miss", "false_alarm"]


def test_an_iou_of_exactly_the_limit_is_no_match():
    pair = predict(line(5)), predict(line(10))
    assert [row[1] for row in outcomes(*pair)][:2] == [Outcome.MISS, Outcome.FALSE_ALARM]
    pair = predict(line(8)), predict(line(10))
    assert outcomes(*pair, min_iou=0.79)[0][1] == Outcome.MATCH
    assert outcomes(*pair, min_iou=0.81)[0][1] == Outcome.MISS


def test_objects_of_another_class_do_not_match():
    pair = predict(line(5), labels=[1]), predict(line(5), labels=[2])
    assert [row[:2] for row in outcomes(*pair)] == [("plain", Outcome.FALSE_ALARM), ("mitotic", Outcome.MISS)]


def test_an_object_at_the_edge_of_the_image_counts_as_any_other():
    whole = np.ones((4, 5), dtype=np.int32)
    assert quality_of([(predict(whole), predict(whole))])["plain"] == 1.0


def test_an_unmatched_object_with_exactly_half_of_it_annotated_is_a_false_alarm():
    prediction = predict(line(4, -6, 4))
    valid = np.ones((1, 40), dtype=bool)
    valid[0, :2] = False
    valid[0, 10:13] = False
    found = outcomes(prediction, predict(line(), valid=valid))
    assert [row[1] for row in found] == [Outcome.FALSE_ALARM, Outcome.NONE]


def test_pooling_weighs_objects_and_the_mean_over_cases_weighs_cases():
    one = predict(line(5), case_id="a"), predict(line(5), case_id="a")
    three = predict(line(), case_id="b"), predict(line(2, 2, 2), case_id="b")
    assert quality_of([one, three], pooled=True)["plain"] == pytest.approx(1 / (1 + 3 / 2))
    assert quality_of([one, three], pooled=False)["plain"] == pytest.approx(0.5)


def test_cases_without_an_object_follow_the_declared_rule():
    empty = predict(line(), case_id="b"), predict(line(), case_id="b")
    half = predict(line(5), case_id="a"), predict(line(5, -1, 5), case_id="a")
    expected = quality_of([half])["plain"]
    assert expected == pytest.approx(2 / 3)
    assert quality_of([half, empty], pooled=False)["plain"] == pytest.approx(expected)
    assert quality_of([half, empty], pooled=False, both_empty=1.0)["plain"] == pytest.approx((expected + 1) / 2)
    assert quality_of([half, empty], pooled=True, both_empty=1.0)["plain"] == pytest.approx(expected)
    assert math.isnan(quality_of([empty])["plain"])
    assert quality_of([empty], both_empty=1.0)["plain"] == 1.0


def test_mean_is_over_the_classes_where_it_is_defined():
    metric, pair = PanopticQuality(), (predict(line(5)), predict(line(5)))
    found = metric.aggregate(metric.rows(*pair))
    assert found["mean"] == found["plain"] == 1.0
    assert math.isnan(found["mitotic"])
    assert math.isnan(metric.aggregate([])["mean"])


@pytest.mark.parametrize("name", ["pq", "sq", "rq"])
def test_option_file_lists_every_knob_with_its_default(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert list(config) == [name]
    knobs = inspect.signature(get_class(config[name]._target_)).parameters
    assert set(config[name]) - {"_target_"} == set(knobs)
    for knob in knobs.values():
        assert repr(config[name][knob.name]) == repr(name if knob.name == "quality" else knob.default)
    metric = instantiate(config[name])
    assert metric.name == name
    definition = metric.definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == definition


@pytest.mark.parametrize(
    "knobs", [{"quality": "sq"}, {"pooled": False}, {"min_iou": 0.7}, {"both_empty": 1.0}], ids=str
)
def test_definition_differs_by_every_knob(knobs):
    assert PanopticQuality(**knobs).definition() != PanopticQuality().definition()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"quality": "dq"}, r"pq\.quality needs pq or sq or rq, got 'dq'"),
        ({"min_iou": 0.4}, r"pq\.min_iou needs a value from 0\.5 .* got 0\.4"),
        ({"min_iou": 1.0}, r"pq\.min_iou needs a value"),
        ({"both_empty": 0.5}, r"pq\.both_empty needs 1\.0 or \.nan"),
    ],
)
def test_unfit_knobs_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        PanopticQuality(**knobs)


def test_predictions_that_do_not_fit_are_refused():
    metric, one = PanopticQuality(), predict(line(5))
    with pytest.raises(DataError, match="case a was given the prediction of case b"):
        metric.rows(predict(line(5), case_id="b"), one)
    with pytest.raises(DataError, match="case a: the prediction has no instances; end the post-processing chain"):
        metric.rows(replace(one, instances=None), one)
    with pytest.raises(DataError, match="case a: the reference needs instance ids from 0 to 0"):
        metric.rows(one, replace(one, objects=Objects.none(2)))
    with pytest.raises(DataError, match=r"the instances need one grid, got \(1, 40\) and \(40, 1\)"):
        metric.rows(one, predict(line(5).T))
    with pytest.raises(DataError, match=r"the same classes, got \['plain', 'mitotic'\] and \['plain'\]"):
        metric.rows(one, replace(one, classes=CLASSES[:1]))


def test_a_class_called_mean_is_refused():
    with pytest.raises(UsageError, match='a class is called "mean"'):
        PanopticQuality().aggregate([EvidenceRow("a", "a", "pq", "mean", 0.8, outcome=Outcome.MATCH)])
