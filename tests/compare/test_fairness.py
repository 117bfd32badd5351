from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_rows import dice_rows

from medexp.compare.compare import Choices, compare_runs
from medexp.compare.comparison import Comparison, Level
from medexp.compare.runs import read_runs
from medexp.core.errors import UsageError
from medexp.core.record import RunFolder

WriteRun = Callable[..., RunFolder]


@pytest.fixture
def pair(write_run: WriteRun, tmp_path: Path) -> Callable[..., Comparison]:
    """Compares two runs, the second with what is given changed."""

    def compare(*, by: tuple[str, ...] = ("loss",), force: bool = False, **changed: Any) -> Comparison:
        metrics = changed.pop("metrics", ())
        rows = dice_rows(np.linspace(0.5, 0.9, 6))
        write_run(rows, loss="first", axes=changed.get("first_axes"))
        changed.pop("first_axes", None)
        write_run(rows, loss="second", **changed)
        runs = read_runs(["study"], tmp_path / "runs")
        return compare_runs(runs, Choices(by=by, force=force, metrics=metrics, resamples=100))

    return compare


def test_a_fair_pair_has_no_findings(pair: Callable[..., Comparison]) -> None:
    assert pair().fairness.findings == ()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"fingerprint": {"split": "x" * 64}},
            "split: fold 0: 0{12} in fold=0,loss=first,seed=0; x{12} in fold=0,loss=second",
        ),
        ({"fingerprint": {"data": "x" * 64}}, "data: fold 0: "),
        ({"fingerprint": {"initial_weights": "x" * 64}}, "initial weights: "),
        ({"fingerprint": {"data_order": "x" * 64}}, "order of the data: "),
        ({"record": {"part": "test"}}, "part: val in .*; test in "),
        ({"record": {"precision": "bf16-mixed"}}, "precision: 32-true in .*; bf16-mixed in "),
        ({"record": {"checkpoint": "best: a.ckpt"}}, "checkpoint: last in .*; best in "),
        ({"record": {"metrics": {"dice": {"better": "higher"}}}}, "metric: dice is defined otherwise: .*empty"),
        ({"record": {"metrics": {}}, "metrics": ("dice",)}, "metric: dice was not measured in fold=0,loss=second"),
        ({"config": {"trainer.max_steps": 20}}, "budget: trainer.max_steps is 10 in .*; 20 in "),
        ({"config": {"dataset.batch_size": 4}}, "budget: dataset.batch_size is 2 in .*; 4 in "),
    ],
)
def test_what_must_be_equal_is_refused_by_name_and_marked_when_forced(
    changed: dict[str, Any], message: str, pair: Callable[..., Comparison]
) -> None:
    with pytest.raises(UsageError, match=f"(?s)cannot be compared fairly:.*- {message}.*--force"):
        pair(**changed)


def test_a_forced_comparison_is_marked(pair: Callable[..., Comparison]) -> None:
    found = pair(force=True, fingerprint={"split": "x" * 64})
    assert found.fairness.forced
    assert [finding.what for finding in found.fairness.of(Level.ERROR)] == ["split"]


def test_versions_threads_and_other_settings_are_warned_of(pair: Callable[..., Comparison]) -> None:
    found = pair(
        config={"optimizer.lr": 0.5},
        record={"threads": 4},
        fingerprint={"environment": {"torch": "9"}, "code": {"medexp": "x"}},
    )
    told = {finding.what: finding.text for finding in found.fairness.of(Level.WARNING)}
    assert set(told) == {"threads", "environment", "code", "configuration"}
    assert "optimizer.lr: 0.1 -> 0.5" in told["configuration"]
    assert found.methods[1].differences == ("loss.name: first -> second", "optimizer.lr: 0.1 -> 0.5")
    assert not found.fairness.forced


def test_initial_weights_of_another_model_differ_by_design(pair: Callable[..., Comparison]) -> None:
    changed = {"model.channels": [8], "options.model": "wide"}
    found = pair(by=("loss", "model"), config=changed, fingerprint={"initial_weights": "x" * 64})
    assert [finding.what for finding in found.fairness.of(Level.NOTE)] == ["initial weights"]


def test_a_budget_that_is_what_is_compared_is_no_fault(pair: Callable[..., Comparison]) -> None:
    found = pair(
        by=("loss", "trainer.max_steps"),
        first_axes={"trainer.max_steps": "10"},
        axes={"trainer.max_steps": "20"},
        config={"trainer.max_steps": 20},
        fingerprint={"data_order": "x" * 64},
    )
    assert [finding.what for finding in found.fairness.findings] == ["budget", "order of the data"]
    assert {finding.level for finding in found.fairness.findings} == {Level.NOTE}


def test_a_metric_that_is_defined_otherwise_by_now_is_warned_of(write_run: WriteRun, tmp_path: Path) -> None:
    for loss in ("first", "second"):
        run = write_run(dice_rows([0.5, 0.6]), loss=loss)
        text = run.path / "run.json"
        text.write_text(
            re.sub(r'"implementation": "medexp [^"]*"', '"implementation": "medexp 0.0.1"', text.read_text())
        )
    found = compare_runs(read_runs(["study"], tmp_path / "runs"), Choices(by=("loss",), resamples=100))
    (finding,) = found.fairness.of(Level.WARNING)
    assert (finding.what, "medexp 0.0.1 -> medexp" in finding.text) == ("metric", True)


def test_trainings_of_one_method_need_one_configuration(write_run: WriteRun, tmp_path: Path) -> None:
    for loss in ("first", "second"):
        for seed in range(2):
            lr = 0.1 + (loss == "second") * seed
            write_run(dice_rows([0.5, 0.6]), loss=loss, seed=seed, config={"optimizer.lr": lr})
    with pytest.raises(UsageError, match=r"configuration: of second: optimizer.lr: 0.1 -> 1.1"):
        compare_runs(read_runs(["study"], tmp_path / "runs"), Choices(by=("loss",)))


def test_a_missing_training_is_warned_of(write_run: WriteRun, tmp_path: Path) -> None:
    for loss, seed in (("first", 0), ("first", 1), ("second", 0)):
        write_run(dice_rows([0.5, 0.6]), loss=loss, seed=seed)
    found = compare_runs(read_runs(["study"], tmp_path / "runs"), Choices(by=("loss",), resamples=100))
    assert [finding.text for finding in found.fairness.of(Level.WARNING)] == ["second lacks fold 0, seed 1"]
    assert found.pairs[0].n_trainings == 1
