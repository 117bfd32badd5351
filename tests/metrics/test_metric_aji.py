from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from test_metric_pq import CLASSES, line, predict, random_maps

from medexp.core.errors import DataError, UsageError
from medexp.core.types import EvidenceRow, Outcome, Prediction
from medexp.metrics.aji import AggregatedJaccard

CONF = Path(__file__).parents[2] / "conf" / "metrics"


def metric(pairing: str = "best", *, pooled: bool = False, both_empty: float = math.nan) -> AggregatedJaccard:
    return AggregatedJaccard(name="aji", pairing=pairing, pooled=pooled, both_empty=both_empty)


def value_of(*pairs: tuple[Prediction, Prediction], **knobs) -> dict[str, float]:
    aji = metric(**knobs)
    found = aji.aggregate([row for pair in pairs for row in aji.rows(*pair)])
    found.pop("mean")
    return found


def masks_of(one: Prediction, value: int, valid: np.ndarray | None = None) -> list[np.ndarray]:
    masks = [one.instances == number for number, label in enumerate(one.objects.labels, start=1) if label == value]
    return masks if valid is None else [mask & valid for mask in masks]


def best_partners(ious: np.ndarray) -> list[tuple[int, int]]:
    """Row and column, by algorithm 1 of Kumar et al."""
    return [(row, int(own.argmax())) for row, own in enumerate(ious) if own.size and own.max() > 0]


def unique_partners(ious: np.ndarray) -> list[tuple[int, int]]:
    return [(row, column) for row, column in zip(*linear_sum_assignment(-ious), strict=True) if ious[row, column] > 0]


PARTNERS = {"best": best_partners, "unique": unique_partners}


def voxel_sums(pair: tuple[Prediction, Prediction], value: int, pairing: str) -> tuple[int, int]:
    """Intersections and unions summed up mask by mask."""
    found, wanted = (masks_of(one, value, pair[1].valid) for one in pair)
    ious = np.array([[(g & s).sum() / max((g | s).sum(), 1) for s in found] for g in wanted])
    partners = PARTNERS[pairing](ious.reshape(len(wanted), len(found)))
    shared = sum((wanted[row] & found[column]).sum() for row, column in partners)
    either = sum((wanted[row] | found[column]).sum() for row, column in partners)
    either += sum(mask.sum() for row, mask in enumerate(wanted) if row not in {row for row, _ in partners})
    either += sum(mask.sum() for column, mask in enumerate(found) if column not in {column for _, column in partners})
    return int(shared), int(either)


@pytest.mark.parametrize("pairing", ["best", "unique"])
@pytest.mark.parametrize("seed", range(12))
def test_each_case_agrees_with_the_algorithm_mask_by_mask(seed, pairing):
    pair = random_maps(seed)
    for structure in CLASSES:
        shared, either = voxel_sums(pair, structure.value, pairing)
        assert value_of(pair, pairing=pairing)[structure.name] == pytest.approx(shared / either)


@pytest.mark.parametrize("pairing", ["best", "unique"])
def test_the_pooled_value_is_of_the_sums_over_all_cases(pairing):
    pairs = [random_maps(seed) for seed in range(6)]
    for structure in CLASSES:
        sums = np.sum([voxel_sums(pair, structure.value, pairing) for pair in pairs], axis=0)
        assert value_of(*pairs, pairing=pairing, pooled=True)[structure.name] == pytest.approx(sums[0] / sums[1])


@pytest.mark.parametrize("seed", range(6))
def test_voxels_that_nobody_annotated_count_for_nothing(seed):
    prediction, reference = random_maps(seed)
    valid = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=reference.instances.shape), 2.0) > -0.02
    pair = prediction, replace(reference, valid=valid)
    for structure in CLASSES:
        shared, either = voxel_sums(pair, structure.value, "best")
        expected = shared / either if either else math.nan
        assert value_of(pair)[structure.name] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("seed", range(8))
def test_unique_partners_have_the_highest_sum_of_all_choices(seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 9, (2, 5))
    pair = predict(line(*lengths[0])), predict(line(-int(rng.integers(1, 4)), *lengths[1]))
    found, wanted = (masks_of(one, 1) for one in pair)
    ious = [[(g & s).sum() / (g | s).sum() for s in found] for g in wanted]
    sums = {}
    for order in itertools.permutations(range(5)):
        chosen = [(row, column) for row, column in enumerate(order) if ious[row][column]]
        shared = sum((wanted[row] & found[column]).sum() for row, column in chosen)
        total = sum(map(np.sum, found)) + sum(map(np.sum, wanted)) - shared
        sums.setdefault(round(sum(ious[row][column] for row, column in chosen), 9), set()).add(shared / total)
    found_value = value_of(pair, pairing="unique")["plain"]
    assert any(found_value == pytest.approx(value) for value in sums[max(sums)])


@pytest.mark.parametrize(
    ("predicted", "referred", "best", "unique"),
    [
        (line(5, -1, 5), line(5, -1, 5), 1.0, 1.0),
        (line(), line(5, 3), 0.0, 0.0),
        (line(5, 3), line(), 0.0, 0.0),
        (line(), line(), math.nan, math.nan),
        (line(3, 3, 3), line(9), 3 / (9 + 3 + 3), 3 / (9 + 3 + 3)),
        (line(9), line(5, 4), (5 + 4) / (9 + 9), 5 / (9 + 4)),  # one prediction, the partner of two or of one
        (line(40), line(40), 1.0, 1.0),  # from border to border
        (line(-5, 5), line(5), 0.0, 0.0),  # touching, without a common voxel
    ],
)
def test_edge_cases(predicted, referred, best, unique):
    pair = predict(predicted), predict(referred)
    assert value_of(pair)["plain"] == pytest.approx(best, nan_ok=True)
    assert value_of(pair, pairing="unique")["plain"] == pytest.approx(unique, nan_ok=True)


def test_the_rows_are_shared_missed_and_falsely_found_voxels():
    pair = predict(line(-2, 6, -2, 3)), predict(line(7, -33), labels=[1])
    rows = metric().rows(*pair)
    assert [(row.label, row.outcome, row.value) for row in rows[:3]] == [
        ("plain", Outcome.MATCH, 5.0),
        ("plain", Outcome.MISS, 2.0),
        ("plain", Outcome.FALSE_ALARM, 1.0 + 3.0),
    ]
    assert (rows[3].label, rows[3].outcome) == ("mitotic", Outcome.NONE)
    assert math.isnan(rows[3].value)
    assert {(row.case_id, row.group, row.metric) for row in rows} == {("a", "patient_a", "aji")}


def test_objects_of_another_class_are_no_partners():
    pair = predict(line(5), labels=[1]), predict(line(5), labels=[2])
    assert value_of(pair) == {"plain": 0.0, "mitotic": 0.0}


def test_cases_without_an_object_follow_the_declared_rule():
    some = predict(line(4)), predict(line(5))
    empty = predict(line(), case_id="b"), predict(line(), case_id="b")
    assert value_of(some, empty)["plain"] == pytest.approx(4 / 5)
    assert value_of(some, empty, both_empty=1.0)["plain"] == pytest.approx((4 / 5 + 1) / 2)
    assert value_of(some, empty, both_empty=1.0, pooled=True)["plain"] == pytest.approx(4 / 5)
    assert value_of(empty, both_empty=1.0, pooled=True)["plain"] == 1.0


@pytest.mark.parametrize(("name", "pairing"), [("aji", "best"), ("aji_plus", "unique")])
def test_option_files_list_every_knob(name, pairing):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert list(config) == [name]
    built = instantiate(config[name])
    assert (built.name, built.pairing, built.pooled) == (name, pairing, False)
    definition = built.definition()
    assert json.loads(json.dumps(definition, allow_nan=False)) == definition
    for changed in ({"pairing": {"best": "unique", "unique": "best"}[pairing]}, {"pooled": True}, {"both_empty": 1.0}):
        assert instantiate(OmegaConf.merge(config[name], changed)).definition() != definition


def test_what_has_no_meaning_is_refused():
    with pytest.raises(UsageError, match=r"aji\.pairing needs best or unique, got 'first'"):
        metric("first")
    with pytest.raises(UsageError, match=r"aji\.both_empty needs 1\.0 or \.nan"):
        metric(both_empty=0.5)
    with pytest.raises(UsageError, match='a class is called "mean"'):
        metric().aggregate([EvidenceRow("a", "a", "aji", "mean", 3.0, outcome=Outcome.MATCH)])
    with pytest.raises(DataError, match="case a: the prediction has no instances"):
        metric().rows(replace(predict(line(5)), instances=None), predict(line(5)))
