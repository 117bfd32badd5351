from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import ndimage
from test_metric_pq import CLASSES, line, predict, random_maps

from medexp.core.errors import UsageError
from medexp.core.types import EvidenceRow, Outcome, Prediction
from medexp.metrics.division import Division

CONF = Path(__file__).parents[2] / "conf" / "metrics"
ERRORS = ("over_segmentation", "under_segmentation")


def metric(error: str, *, min_share: float = 0.5, relative: bool = False, pooled: bool = False) -> Division:
    return Division(error=error, min_share=min_share, relative=relative, pooled=pooled)


def value_of(error: str, *pairs: tuple[Prediction, Prediction], **knobs) -> dict[str, float]:
    built = metric(error, **knobs)
    return built.aggregate([row for pair in pairs for row in built.rows(*pair)])


def by_loops(outer: Prediction, inner: Prediction, value: int, min_share: float, valid=None) -> list[int]:
    """How many objects lie in each one, mask by mask, of those with an annotated voxel."""
    masks = [
        [
            (one.instances == k) & (True if valid is None else valid)
            for k, v in enumerate(one.objects.labels, 1)
            if v == value
        ]
        for one in (outer, inner)
    ]
    return [
        sum((whole & part).sum() > min_share * part.sum() for part in masks[1]) for whole in masks[0] if whole.any()
    ]


@pytest.mark.parametrize("min_share", [0.5, 0.8])
@pytest.mark.parametrize("seed", range(8))
def test_the_counts_agree_with_the_definition_mask_by_mask(seed, min_share):
    prediction, reference = random_maps(seed)
    for error, outer, inner in zip(ERRORS, (reference, prediction), (prediction, reference), strict=True):
        rows = metric(error, min_share=min_share).rows(prediction, reference)
        for structure in CLASSES:
            expected = by_loops(outer, inner, structure.value, min_share)
            own = [row for row in rows if row.label == structure.name]
            assert [row.value for row in own] == expected
            assert [row.outcome == Outcome.POSITIVE for row in own] == [count >= 2 for count in expected]


@pytest.mark.parametrize("seed", range(4))
def test_objects_are_what_is_annotated_of_them(seed):
    prediction, reference = random_maps(seed)
    valid = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=reference.instances.shape), 2.0) > 0
    rows = metric("over_segmentation").rows(prediction, replace(reference, valid=valid))
    expected = by_loops(reference, prediction, 1, 0.5, valid)
    assert [row.value for row in rows if row.label == "plain"] == expected


@pytest.mark.parametrize("seed", range(8))
def test_merges_are_splits_with_both_images_exchanged(seed):
    prediction, reference = random_maps(seed)
    assert value_of(ERRORS[1], (prediction, reference)) == value_of(ERRORS[0], (reference, prediction))


@pytest.mark.parametrize(
    ("predicted", "referred", "splits", "merges"),
    [
        (line(5, -1, 5), line(5, -1, 5), 0, 0),
        (line(3, 3, 3), line(9), 1, 0),
        (line(9), line(3, 3, 3), 0, 1),
        (line(5, 5), line(2, 6, 2), 1, 0),  # three of five voxels of both lie in the middle, half of it in each
        (line(4, 4), line(2, 4, 2), 0, 0),  # exactly one half lies in nothing
        (line(6, 4, -3, 4, 4), line(10, -3, 8), 2, 0),
        (line(), line(5), 0, 0),
        (line(5), line(), 0, 0),
        (line(), line(), 0, 0),
        (line(20, 20), line(40), 1, 0),  # from border to border
    ],
)
def test_edge_cases(predicted, referred, splits, merges):
    pair = predict(predicted), predict(referred)
    assert value_of("over_segmentation", pair)["plain"] == splits
    assert value_of("under_segmentation", pair)["plain"] == merges


def test_objects_of_another_class_do_not_divide():
    pair = predict(line(4, 4), labels=[1, 2]), predict(line(8), labels=[1])
    assert value_of("over_segmentation", pair)["plain"] == 0


def test_numbers_and_shares_pooled_and_by_case():
    first = predict(line(2, 2, -1, 5)), predict(line(4, -1, 5))
    second = predict(line(2, 2), case_id="b"), predict(line(4), case_id="b")
    empty = predict(line(), case_id="c"), predict(line(), case_id="c")
    cases = first, second, empty
    assert value_of(ERRORS[0], *cases)["plain"] == pytest.approx((1 + 1 + 0) / 3)
    assert value_of(ERRORS[0], *cases, pooled=True)["plain"] == 2
    assert value_of(ERRORS[0], *cases, relative=True)["plain"] == pytest.approx((1 / 2 + 1) / 2)
    assert value_of(ERRORS[0], *cases, relative=True, pooled=True)["plain"] == pytest.approx(2 / 3)
    assert math.isnan(value_of(ERRORS[0], empty, relative=True)["plain"])


@pytest.mark.parametrize("error", ERRORS)
def test_option_files_list_every_knob(error):
    config = OmegaConf.load(CONF / f"{error}.yaml")
    assert list(config) == [error]
    built = instantiate(config[error])
    assert (built.name, built.higher_is_better) == (error, False)
    definition = built.definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == definition
    for changed in ({"min_share": 0.7}, {"relative": True}, {"pooled": True}):
        assert instantiate(OmegaConf.merge(config[error], changed)).definition() != definition


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match="needs over_segmentation or under_segmentation, got 'splits'"):
        metric("splits")
    with pytest.raises(UsageError, match=r"under_segmentation\.min_share needs a value from 0\.5 to below 1, got 0\.4"):
        metric("under_segmentation", min_share=0.4)
    with pytest.raises(UsageError, match='a class is called "mean"'):
        metric(ERRORS[0]).aggregate([EvidenceRow("a", "a", ERRORS[0], "mean", 2.0, outcome=Outcome.POSITIVE)])
