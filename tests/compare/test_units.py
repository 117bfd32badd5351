from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_rows import auroc_rows, dice_rows, object_rows
from sklearn.metrics import roc_auc_score

from medexp.compare.units import MEAN, case_values, cells_of, is_by_case, pseudo_values, strata_of
from medexp.core.types import EvidenceRow
from medexp.metrics.accuracy import Accuracy
from medexp.metrics.auroc import AUROC
from medexp.metrics.detection_f1 import DetectionF1
from medexp.metrics.dice import Dice
from medexp.metrics.mean_ap import MeanAP
from medexp.metrics.pq import PanopticQuality


def _scores(random: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    truths = np.arange(n) % 3 == 0
    return truths, random.normal(size=n) + truths


def _variance_of_delong(truths: np.ndarray, scores: np.ndarray) -> float:
    """From the placements of each image among those of the other kind (E. R. DeLong et al., Biometrics 44, 1988)."""
    wins = (scores[truths][:, None] > scores[~truths]) + 0.5 * (scores[truths][:, None] == scores[~truths])
    return wins.mean(axis=1).var(ddof=1) / truths.sum() + wins.mean(axis=0).var(ddof=1) / (~truths).sum()


def test_metrics_whose_aggregate_is_a_mean_of_cases_are_told_from_the_others() -> None:
    f1 = DetectionF1(distance_mm=5.0, min_score=0.0, both_empty=1.0)
    assert is_by_case(Dice())
    assert is_by_case(Accuracy(balanced=False))
    assert is_by_case(PanopticQuality(quality="pq", pooled=False, min_iou=0.5, both_empty=1.0))
    assert not is_by_case(Accuracy(balanced=True))
    assert not is_by_case(PanopticQuality(quality="pq", pooled=True, min_iou=0.5, both_empty=1.0))
    assert not is_by_case(MeanAP(name="ap", iou_thresholds=[0.5], max_detections=9))
    assert not is_by_case(AUROC())
    assert not is_by_case(f1)


def test_the_mean_of_a_case_is_over_the_labels_that_it_has() -> None:
    rows = [
        EvidenceRow("a", "p", "dice", "organ", 0.8),
        EvidenceRow("a", "p", "dice", "lesion", float("nan")),
        EvidenceRow("b", "p", "dice", "organ", 0.6),
        EvidenceRow("b", "p", "dice", "lesion", 0.2),
    ]
    values = case_values(rows, Dice())
    assert values[MEAN] == pytest.approx({("a", "p"): 0.8, ("b", "p"): 0.4})
    assert values["lesion"][("b", "p")] == 0.2
    assert np.isnan(values["lesion"][("a", "p")])


def test_pseudo_values_of_a_mean_are_the_values_themselves() -> None:
    values = [0.3, 0.9, 0.5, 0.7]
    found = pseudo_values(dice_rows(values), Dice())["organ"]
    assert list(found.values()) == pytest.approx(values)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 40))
def test_mean_of_the_pseudo_values_is_the_area_of_scikit_learn(seed: int, n: int) -> None:
    truths, scores = _scores(np.random.default_rng(seed), n)
    found = pseudo_values(auroc_rows(truths, scores), AUROC())["ill"]
    assert np.mean(list(found.values())) == pytest.approx(roc_auc_score(truths, scores))


def test_spread_of_the_pseudo_values_of_an_area_is_that_of_delong() -> None:
    truths, scores = _scores(np.random.default_rng(0), 300)
    pseudo = np.array(list(pseudo_values(auroc_rows(truths, scores), AUROC())["ill"].values()))
    assert pseudo.var(ddof=1) / 300 == pytest.approx(_variance_of_delong(truths, scores), rel=0.02)


def test_pseudo_values_leave_out_groups_and_not_cases() -> None:
    counts = [(3, 1, 0), (2, 0, 2), (4, 1, 1), (1, 0, 0)]
    metric = PanopticQuality(quality="rq", pooled=True, min_iou=0.5, both_empty=1.0)
    by_case = object_rows(counts, metric="rq")
    by_group = [
        EvidenceRow(**{**row._asdict(), "group": row.case_id[:3] + row.case_id[-1:].translate({50: 48, 51: 49})})
        for row in by_case
    ]
    whole = pseudo_values(by_group, metric)["cell"]
    assert len(whole) == 2
    # 2 TP / (2 TP + FP + FN), as recognition quality is defined.
    assert np.mean(list(whole.values())) == pytest.approx(20 / (20 + 2 + 3))
    without_first = 2 * 3 / (6 + 2)
    without_second = 2 * 7 / (14 + 2 + 1)
    first, second = whole.values()
    assert first - second == pytest.approx(without_second - without_first)


def test_an_area_that_one_group_carries_alone_is_undefined() -> None:
    truths, scores = np.array([True, False, False]), np.array([0.9, 0.1, 0.2])
    assert np.isnan(list(pseudo_values(auroc_rows(truths, scores), AUROC())["ill"].values())).all()


def test_folds_are_strata_and_a_shared_test_part_is_one() -> None:
    present = np.zeros((4, 4), dtype=bool)
    present[:2, :2] = present[2:, 2:] = True
    units, trainings = strata_of(present)
    assert units[0] == units[1] == trainings[0] == trainings[1] != trainings[2] == trainings[3] == units[3]
    assert len(set(np.concatenate(strata_of(np.ones((3, 4), dtype=bool))))) == 1


def test_cells_hold_nothing_where_a_method_lacks_a_case_or_a_training() -> None:
    a = {("c1", "g1"): 1.0, ("c2", "g1"): 2.0}
    b = {("c2", "g1"): 5.0, ("c10", "g2"): 6.0}
    cells = cells_of(
        {"x": {("0", "2"): {"organ": a}, ("0", "10"): {"organ": a}}, "y": {("0", "10"): {"organ": b}}}, "organ"
    )
    assert cells.trainings == (("0", "2"), ("0", "10"))
    assert np.isnan(cells.of("y")[:, 0]).all()
    assert np.isfinite(cells.difference("x", "y")).sum() == 1
    assert cells.difference("x", "y")[cells.units.index("c2"), 1] == -3.0
    assert cells.groups == ("g1", "g2")
