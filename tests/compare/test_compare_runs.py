from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_rows import auroc_rows, dice_rows, object_rows

from medexp.compare.compare import Choices, compare_runs
from medexp.compare.comparison import Answer, Comparison
from medexp.compare.runs import read_runs
from medexp.core.errors import RecordError, UsageError
from medexp.core.record import RunFolder, Status
from medexp.core.types import EvidenceRow

WriteRun = Callable[..., RunFolder]
WriteStudy = Callable[..., None]


@pytest.fixture
def compared(tmp_path: Path) -> Callable[..., Comparison]:
    def compare(*places: str, **choices: Any) -> Comparison:
        runs = read_runs(list(places) or ["study"], tmp_path / "runs")
        return compare_runs(runs, Choices(**{"resamples": 200, "by": ("loss",), **choices}))

    return compare


def test_a_clear_gain_is_better_a_loss_is_worse_and_neither_is_not_separable(
    dice_study: WriteStudy, compared: Callable[..., Comparison]
) -> None:
    dice_study(0.05, study="gain")
    dice_study(0.0, study="none")
    (gain,) = compared("gain").pairs
    assert (gain.first, gain.second, gain.verdict.answer) == ("first", "second", Answer.WORSE)
    (turned,) = compared("gain", baseline="first").pairs
    assert (turned.first, turned.second, turned.verdict.answer) == ("second", "first", Answer.BETTER)
    assert turned.verdict.difference == pytest.approx(0.05, abs=0.005)
    assert turned.verdict.low < turned.verdict.difference < turned.verdict.high
    assert (turned.n_cases, turned.n_groups, turned.n_trainings, turned.n_folds) == (20, 20, 3, 1)
    (none,) = compared("none").pairs
    assert none.verdict.answer is Answer.NOT_SEPARABLE
    assert 0 < none.verdict.smallest_difference < 0.02


def test_lower_is_better_where_the_metric_says_so(write_run: WriteRun, compared: Callable[..., Comparison]) -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        for loss, distance in (("first", 5.0), ("second", 3.0)):
            values = distance + random.normal(size=12) * 0.2
            rows = [EvidenceRow(f"c{i}", f"c{i}", "hd95", "organ", float(value)) for i, value in enumerate(values)]
            write_run(rows, loss=loss, seed=seed)
    found = compared()
    assert found.pairs[0].verdict.answer is Answer.WORSE
    assert found.pairs[0].description.losses == 12
    assert found.rankings[0].methods == ("second", "first")


def test_one_seed_is_described_and_not_judged(dice_study: WriteStudy, compared: Callable[..., Comparison]) -> None:
    dice_study(0.05, seeds=(0,))
    (pair,) = compared().pairs
    assert pair.verdict.answer is Answer.NOT_SEPARABLE
    assert "one training" in pair.verdict.reason
    assert math.isnan(pair.verdict.p)
    assert pair.description.high < 0
    assert pair.description.wilcoxon_p < 0.01


def test_cases_of_all_folds_are_pooled(dice_study: WriteStudy, compared: Callable[..., Comparison]) -> None:
    dice_study(0.02, n_cases=6, folds=(0, 1, 2), seeds=(0, 1))
    (pair,) = compared().pairs
    assert (pair.n_cases, pair.n_trainings, pair.n_folds) == (18, 6, 3)
    assert pair.verdict.answer is Answer.WORSE


def test_a_metric_without_direction_is_described_and_not_judged(
    write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    for loss in ("first", "second"):
        for seed in range(3):
            name = "signed_volume_difference_ml"
            write_run(
                [EvidenceRow(f"c{i}", f"c{i}", name, "organ", float(i + (loss == "first"))) for i in range(5)],
                loss=loss,
                seed=seed,
            )
    found = compared()
    assert found.pairs[0].verdict.answer is Answer.NOT_SEPARABLE
    assert found.pairs[0].verdict.reason == "the metric has no direction"
    assert found.rankings == ()


def test_areas_are_compared_as_the_runs_aggregated_them(
    write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    random = np.random.default_rng(0)
    truths = np.arange(60) % 2 == 0
    for seed in range(3):
        for loss, separation in (("first", 0.3), ("second", 3.0)):
            write_run(auroc_rows(truths, random.normal(size=60) + separation * truths), loss=loss, seed=seed)
    found = compared()
    (pair,) = found.pairs
    assert pair.verdict.answer is Answer.WORSE
    for score in found.scores:
        assert score.value == pytest.approx(np.mean(list(score.by_run.values())))
        assert score.low < score.value < score.high
    assert pair.verdict.difference == pytest.approx(found.scores[0].value - found.scores[1].value)
    assert math.isnan(pair.description.wilcoxon_p)


@pytest.mark.parametrize("metric", ["detection_f1", "pq"])
def test_objects_are_pooled_over_cases(metric: str, write_run: WriteRun, compared: Callable[..., Comparison]) -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        for loss, chance in (("first", 0.9), ("second", 0.5)):
            matches = random.binomial(10, chance, size=15)
            write_run(object_rows([(m, 10 - m, 1) for m in matches], metric=metric), loss=loss, seed=seed)
    found = compared()
    assert found.pairs[0].verdict.answer is Answer.BETTER
    assert not found.metrics[0].by_case
    assert found.scores[0].value == pytest.approx(np.mean(list(found.scores[0].by_run.values())))


def test_cases_that_one_method_leaves_undefined_do_not_count_and_are_told(
    write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    values = np.linspace(0.5, 0.9, 8)
    for seed in range(3):
        write_run(dice_rows(values), loss="first", seed=seed)
        write_run(dice_rows([math.nan, math.nan, *values[2:]]), loss="second", seed=seed)
    found = compared()
    (pair,) = found.pairs
    assert (pair.n_cases, pair.left_out) == (6, 2)
    assert [score.n_undefined for score in found.scores] == [0, 2]
    assert "dice of mean is undefined by some methods and not by others in 2 cases, left out of" in found.notes[0]
    assert (pair.verdict.answer, pair.verdict.p) == (Answer.NOT_SEPARABLE, 1.0)


def test_runs_that_did_not_finish_are_counted_and_not_used(
    dice_study: WriteStudy, write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    dice_study(0.05)
    write_run([], loss="third", record={"status": Status.FAILED, "error": "loss is nan", "metrics": {}})
    running = write_run([], loss="first", seed=7, record={"status": Status.RUNNING, "metrics": {}})
    with running.lock():
        found = compared()
    told = {(run.method, run.seed): (run.status, run.problem) for run in found.runs if not run.used}
    assert told == {("third", "0"): ("failed", "loss is nan"), ("first", "7"): ("running", "")}
    assert [method.name for method in found.methods] == ["first", "second"]
    assert any("2 of 8 runs are not used" in note for note in found.notes)
    assert any("third" in note and "without any finished run" in note for note in found.notes)


def test_a_damaged_record_is_counted_and_hides_no_other(
    dice_study: WriteStudy, write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    dice_study(0.05)
    damaged = write_run(dice_rows([0.5]), loss="second", seed=5)
    (damaged.path / "run.json").write_text("{")
    (run,) = (run for run in compared().runs if not run.used)
    assert (run.method, run.seed, run.status) == ("second", "5", "damaged")
    assert "run.json is damaged" in run.problem


def test_collapsed_runs_are_counted_and_used(write_run: WriteRun, compared: Callable[..., Comparison]) -> None:
    for seed in range(3):
        write_run(dice_rows(np.linspace(0.5, 0.9, 8)), loss="first", seed=seed)
        write_run(dice_rows(np.zeros(8)), loss="second", seed=seed)
    found = compared()
    assert [run.collapsed for run in found.runs if run.method == "second"] == [("dice of organ: 0 in every case",)] * 3
    assert found.scores[1].value == 0
    assert found.pairs[0].verdict.answer is Answer.BETTER


def test_a_constant_score_and_an_unmatched_class_are_collapses(
    write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    truths = np.arange(8) % 2 == 0
    for loss, scores in (("first", np.linspace(0, 1, 8)), ("second", np.full(8, 0.5))):
        matches = 1 if loss == "first" else 0
        rows = [*auroc_rows(truths, scores), *object_rows([(matches, 1, 1)] * 8, metric="pq")]
        write_run(rows, loss=loss)
    collapsed = {run.method: run.collapsed for run in compared().runs}
    assert collapsed["first"] == ()
    assert collapsed["second"] == ("auroc of ill: the same score for every image", "pq of cell: no object was matched")


def test_labels_are_compared_one_by_one_and_holm_counts_the_pairs_of_each(
    write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        for loss in ("a", "b", "c"):
            rows = [row for label in ("organ", "lesion") for row in dice_rows(random.random(9), label=label)]
            write_run(rows, loss=loss, seed=seed)
    found = compared()
    assert found.metrics[0].labels == ("mean", "organ", "lesion")
    assert len(found.pairs) == 9
    smallest = min(found.pairs_of("dice", "organ"), key=lambda pair: pair.verdict.p)
    assert smallest.verdict.p_holm == pytest.approx(min(1.0, 3 * smallest.verdict.p))


def test_groups_are_the_independent_units(write_run: WriteRun, compared: Callable[..., Comparison]) -> None:
    random = np.random.default_rng(0)
    for seed in range(3):
        for loss in ("first", "second"):
            write_run(dice_rows(random.random(12), group_size=4), loss=loss, seed=seed)
    found = compared()
    assert (found.pairs[0].n_cases, found.pairs[0].n_groups) == (12, 3)
    assert {part.level for part in found.strata if part.factor == "group"} == {"c_g000", "c_g001", "c_g002"}


def test_methods_of_two_axes_and_of_two_studies(dice_study: WriteStudy, compared: Callable[..., Comparison]) -> None:
    dice_study(0.0, axes={"model": "unet"})
    dice_study(0.0, axes={"model": "vnet"})
    names = [method.name for method in compared(by=("loss", "model")).methods]
    assert names == ["first, unet", "first, vnet", "second, unet", "second, vnet"]
    assert [method.name for method in compared(by=()).methods] == names
    with pytest.raises(UsageError, match=r"differ in model too .*--by loss,model"):
        compared()


def test_studies_are_methods_where_nothing_else_differs(
    write_run: WriteRun, compared: Callable[..., Comparison]
) -> None:
    for study in ("old", "new"):
        for seed in range(3):
            write_run(dice_rows(np.linspace(0.5, 0.9, 8)), loss="dice", seed=seed, study=study)
    assert [method.name for method in compared("old", "new", by=()).methods] == ["new", "old"]


def test_the_same_seed_gives_the_same_comparison_and_json_holds_it_all(
    dice_study: WriteStudy, compared: Callable[..., Comparison]
) -> None:
    dice_study(0.01)
    one, other = compared(seed=3), compared(seed=3)
    assert one == other
    plain = json.loads(json.dumps(one.as_plain(), allow_nan=False))
    assert plain["pairs"][0]["verdict"]["p"] == one.pairs[0].verdict.p
    assert len(plain["values"]) == 2 * 3 * 20
    assert plain["runs"][0]["history"][1] == {"epoch": 1, "step": 10, "train/loss": 0.5}


def test_what_cannot_be_compared_is_said(
    dice_study: WriteStudy, write_run: WriteRun, compared: Callable[..., Comparison], tmp_path: Path
) -> None:
    dice_study(0.0)
    for choices, message in (
        ({"baseline": "frist"}, "--baseline frist is no method here; did you mean first"),
        ({"metrics": ("dise",)}, "--metric dise: no run has it; did you mean dice"),
        ({"by": ("los",)}, "--by los: no run has such an axis; did you mean loss"),
        ({"by": ("seed",)}, "--by seed: runs are paired by fold and seed"),
        ({"by": ("optimizer.lr",)}, "the runs differ in loss too"),
        ({"alpha": 2.0}, "--alpha needs"),
    ):
        with pytest.raises(UsageError, match=message):
            compared(**choices)
    write_run(dice_rows([0.5], prefix="other"), loss="alone", seed=9, study="apart")
    with pytest.raises(UsageError, match=r"share no case .* alone has other_000"):
        compared("study", "apart", force=True)
    with pytest.raises(UsageError, match="no study nowhere"):
        read_runs(["nowhere"], tmp_path / "runs")


def test_two_runs_of_one_training_are_refused(dice_study: WriteStudy, compared: Callable[..., Comparison]) -> None:
    dice_study(0.0)
    dice_study(0.0, study="again")
    with pytest.raises(UsageError, match="two runs are of first, fold 0, seed 0"):
        compared("study", "again")


def test_damaged_evidence_is_named(write_run: WriteRun, compared: Callable[..., Comparison]) -> None:
    runs = [write_run(dice_rows([0.5, 0.6]), loss=loss) for loss in ("first", "second")]
    runs[1].evidence.write_text("case_id,group\na,a\n")
    with pytest.raises(RecordError, match=r"evidence.csv lacks the columns label, metric, value"):
        compared()
    runs[1].evidence.unlink()
    with pytest.raises(RecordError, match=r"evidence.csv cannot be read"):
        compared()


def test_a_case_called_na_stays_a_case(write_run: WriteRun, compared: Callable[..., Comparison]) -> None:
    rows = [EvidenceRow(name, name, "dice", "organ", 0.5) for name in ("NA", "nan", "007")]
    for loss in ("first", "second"):
        write_run(rows, loss=loss)
    assert set(compared().values["case_id"]) == {"NA", "nan", "007"}
