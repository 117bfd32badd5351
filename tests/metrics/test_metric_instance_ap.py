from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.optimize import linear_sum_assignment
from test_metric_pq import line, predict, random_maps

from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Prediction
from medexp.metrics.instance_ap import InstanceAP
from medexp.metrics.pq import PanopticQuality

CONF = Path(__file__).parents[2] / "conf" / "metrics"


def metric(*min_ious: float, pooled: bool = True) -> InstanceAP:
    return InstanceAP(name="instance_ap", min_ious=min_ious or (0.5,), pooled=pooled)


def counts(rows: list[EvidenceRow], label: str, threshold: float) -> tuple[int, int, int]:
    found = Counter(row.outcome for row in rows if row.label == label and row.threshold == threshold)
    return found["match"], found["miss"], found["false_alarm"]


def by_assignment(prediction: Prediction, reference: Prediction, value: int, threshold: float) -> tuple[int, int, int]:
    """Mask by mask, and an assignment with as many pairs as can be, as StarDist matches."""
    masks = [
        [
            one.instances == number
            for number in range(1, len(one.objects) + 1)
            if one.objects.labels[number - 1] == value
        ]
        for one in (prediction, reference)
    ]
    iou = np.array([[(a & b).sum() / (a | b).sum() for b in masks[1]] for a in masks[0]]).reshape(*map(len, masks))
    fits = iou >= threshold
    rows, columns = linear_sum_assignment(-(fits + iou / (2 * max(1, min(iou.shape)))))
    matches = int(fits[rows, columns].sum())
    return matches, len(masks[1]) - matches, len(masks[0]) - matches


@pytest.mark.parametrize("seed", range(12))
def test_the_counts_are_those_of_an_assignment_of_all_masks(seed):
    prediction, reference = random_maps(seed)
    thresholds = (0.5, 0.6, 0.75, 0.9)
    rows = metric(*thresholds).rows(prediction, reference)
    for structure in prediction.classes:
        for threshold in thresholds:
            expected = by_assignment(prediction, reference, structure.value, threshold)
            assert counts(rows, structure.name, threshold) == expected


@pytest.mark.parametrize("seed", range(6))
def test_the_counts_and_the_value_are_stardists(seed):
    matching = pytest.importorskip("stardist.matching")
    prediction, reference = random_maps(seed)
    one_class = [predict(each.instances) for each in (prediction, reference)]
    for threshold in (0.5, 0.7, 0.9):
        told = matching.matching(reference.instances, prediction.instances, thresh=threshold)
        rows = metric(threshold).rows(*one_class)
        assert counts(rows, "plain", threshold) == (told.tp, told.fn, told.fp)
        assert metric(threshold).aggregate(rows)["plain"] == pytest.approx(told.accuracy)
        f1 = InstanceAP(name="instance_f1", min_ious=[threshold], pooled=True, formula="f1")
        assert f1.aggregate(rows)["plain"] == pytest.approx(told.f1)


def test_at_exactly_one_half_the_most_pairs_match():
    # Each of the first two is half of the joined one; the third pair of halves leaves one of them without a partner.
    rows = metric(0.5).rows(predict(line(4, 4)), predict(line(8)))
    assert counts(rows, "plain", 0.5) == (1, 0, 1)
    rows = metric(0.5).rows(predict(line(8, -2, 4, 4)), predict(line(4, 4, -2, 8)))
    assert counts(rows, "plain", 0.5) == (2, 1, 1)


@pytest.mark.parametrize(
    ("predicted", "referred", "expected"),
    [
        (line(5, -1, 5), line(5, -1, 5), 1.0),  # all
        (line(), line(5), 0.0),  # nothing found
        (line(5), line(), 0.0),  # nothing there
        (line(), line(), math.nan),
        (line(3, 3, 3), line(9), 0.0),  # one to many
        (line(6, 3), line(9), 1 / 2),
    ],
)
def test_edge_cases(predicted, referred, expected):
    rows = metric(0.5).rows(predict(predicted), predict(referred))
    assert metric(0.5).aggregate(rows)["plain"] == pytest.approx(expected, nan_ok=True)


def test_values_are_pooled_or_means_over_cases_and_means_over_thresholds():
    first = metric(0.5, 0.8).rows(predict(line(10, -2, 10)), predict(line(10, -2, 6, -4, 3)))  # IoU 1, .6
    second = metric(0.5, 0.8).rows(predict(line(5), case_id="b"), predict(line(5), case_id="b"))
    at_50, at_80 = (3, 1, 0), (2, 2, 1)
    expected = np.mean([matches / sum((matches, *rest)) for matches, *rest in (at_50, at_80)])
    assert metric(0.5, 0.8).aggregate([*first, *second])["plain"] == pytest.approx(expected)
    by_case = np.mean([(2 / 3 + 1) / 2, (1 / 4 + 1) / 2])
    assert metric(0.5, 0.8, pooled=False).aggregate([*first, *second])["plain"] == pytest.approx(by_case)


def test_what_nobody_annotated_does_not_count():
    valid = np.ones((1, 40), bool)
    valid[:, 10:] = False
    prediction, reference = predict(line(10, -5, 5)), predict(line(20), valid=valid)
    assert counts(metric(0.9).rows(prediction, reference), "plain", 0.9) == (1, 0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_f1_is_the_recognition_quality_of_the_same_threshold(seed):
    pair = random_maps(seed)
    for pooled in (True, False):
        f1 = InstanceAP(name="instance_f1", min_ious=[0.6137], pooled=pooled, formula="f1")
        rq = PanopticQuality(quality="rq", min_iou=0.6137, pooled=pooled)
        expected = rq.aggregate(rq.rows(*pair))
        assert f1.aggregate(f1.rows(*pair)) == pytest.approx(expected, nan_ok=True)
        assert f1.definition() != InstanceAP(name="instance_f1", min_ious=[0.6137], pooled=pooled).definition()


@pytest.mark.parametrize("name", ["instance_ap", "instance_ap50", "instance_ap75", "instance_ap90", "instance_f1"])
def test_option_files(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    built = instantiate(config[name])
    assert (built.name, list(built.min_ious), built.pooled) == (name, list(config[name].min_ious), True)
    assert built.definition()["parameters"]["min_ious"] == list(config[name].min_ious)
    assert built.formula == ("f1" if name == "instance_f1" else "ap")


@pytest.mark.parametrize("min_ious", [[], [0.4], [1.0], [0.5, 0.5]])
def test_thresholds_without_a_meaning_are_refused(min_ious):
    with pytest.raises(UsageError, match=r"instance_ap\.min_ious needs different values from 0\.5 to below 1"):
        InstanceAP(name="instance_ap", min_ious=min_ious, pooled=True)


def test_a_formula_that_there_is_not_is_refused():
    with pytest.raises(UsageError, match=r"instance_ap\.formula needs ap or f1, got 'iou'"):
        InstanceAP(name="instance_ap", min_ious=[0.5], pooled=True, formula="iou")
