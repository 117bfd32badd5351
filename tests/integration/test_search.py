"""Searches whose trials are trained: what is chosen, stopped, gone on with, and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from medexp.cli.main import main
from medexp.core.record import Record, RunFolder, Status

optuna = pytest.importorskip("optuna")

RUNS = Path("runs")
COMMAND = (sys.executable, "-m", "medexp.cli.main")
# A metric whose value is known before: what the trial sets. It has a value for the validation cases alone.
METRIC = '''

from medexp.metrics.dice import Dice


class Known(Dice):
    """Not measured, but given."""

    name = "known"

    def __init__(self, *, value: float) -> None:
        super().__init__()
        self.value = value

    def _value(self, prediction, reference, geometry):
        return self.value
'''


@pytest.fixture
def known(own_loss: Path) -> list[str]:
    """The command of a search for the largest `loss.alpha`, without its values."""
    module = next(own_loss.parent.glob("losses_of_*.py"))
    module.write_text(module.read_text() + METRIC)
    own_loss.write_text(
        f"{own_loss.read_text()}metrics: {{known: {{_target_: {module.stem}.Known, value: '${{loss.alpha}}'}}}}\n"
    )
    words = ["search=optuna", "search.metric=known", "trainer.max_steps=null", "trainer.max_epochs=3", "preflight=off"]
    return ["train", "-m", str(own_loss), *words, "trainer.validate_every_epochs=1"]


def _summary(study: str = "own") -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((RUNS / study / "search.json").read_text())
    return summary


def _record(trial: dict[str, Any], study: str = "own") -> Record:
    return RunFolder(RUNS / study / trial["run"]).read()


def test_a_search_leaves_a_run_for_each_trial_and_a_larger_number_goes_on(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "-m", str(tiny), "search=optuna", "search/pruner=none", "optimizer.lr=interval(0,0.1)"]
    assert main([*command, "search.n_trials=2"]) == 0
    told = capsys.readouterr().out
    assert "2 trials: 2 complete" in told
    assert "biased: the trials were chosen by the val cases that their results are of" in told
    first = _summary("tiny")
    assert [trial["state"] for trial in first["trials"]] == ["complete", "complete"]
    for trial in first["trials"]:
        record = _record(trial, "tiny")
        assert (record.status, record.part) == (Status.FINISHED, "val")
        assert trial["objective"] == record.results["dice"]["mean"]
        assert record.axes == trial["values"]
        assert any(note.startswith("biased: the search chooses") for note in record.notes)
    best = max(first["trials"], key=lambda trial: trial["objective"])
    assert first["best"] == best["number"]
    assert first["note"].startswith("biased")

    assert main(["train", "-m", str(tiny), f"optimizer.lr={best['values']['optimizer.lr']}", "preflight=off"]) == 0
    assert "1 of 1 job done" in capsys.readouterr().out
    assert len(list((RUNS / "tiny").glob("*/run.json"))) == 2
    assert main([*command, "search.n_trials=3", "preflight=off"]) == 0
    assert capsys.readouterr().out.count(": finished") == 1
    assert _summary("tiny")["trials"][:2] == first["trials"]
    assert len(_summary("tiny")["trials"]) == 3

    tiny.write_text(tiny.read_text().replace("n_cases: 10", "n_cases: 11"))
    assert main([*command, "search.n_trials=4", "preflight=off"]) == 2
    assert "dataset.source.n_cases: 10 -> 11" in capsys.readouterr().err


def test_where_a_test_part_is_reported_the_validation_cases_choose(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = ["dataset/split=holdout", "dataset.split.test=0.3", "dataset.split.val=0.3"]
    command = ["train", "-m", str(tiny), "search=optuna", "search/sampler=grid", *split, "loss=dice,focal"]
    assert main([*command, "search/pruner=none", "preflight=off"]) == 0
    assert "their results are of the test cases" in capsys.readouterr().out
    for trial in _summary("tiny")["trials"]:
        record = _record(trial, "tiny")
        assert record.part == "test"
        assert trial["objective"] == record.validation["dice"]["mean"]
        assert record.validation != record.results
        assert record.notes == []
    alone = ["trainer.validate_every_epochs=1", "study=alone", "preflight=off"]
    assert main(["train", "-m", str(tiny), *split, "loss=dice,focal", *alone]) == 0
    # The last validation of the same training alone sees the same weights.
    for trial in _summary("tiny")["trials"]:
        (rows,) = (RUNS / "alone").glob(f"*loss={trial['values']['loss']}*/steps.jsonl")
        validation = json.loads(rows.read_text().splitlines()[-1])["validation"]
        assert validation["dice"]["mean"] == pytest.approx(trial["objective"], abs=1e-12)


def test_a_bad_trial_is_stopped_early_and_stays_so(known: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = [*known, "search/sampler=grid", "search.pruner.startup_trials=2", "loss.alpha=0.5,0.9,0.1"]
    assert main(command) == 0
    assert "3 trials: 2 complete, 1 pruned" in capsys.readouterr().out
    summary = _summary()
    told = [(trial["state"], trial["epoch"], trial["objective"]) for trial in summary["trials"]]
    assert told == [("complete", 3, 0.5), ("complete", 3, 0.9), ("pruned", 1, None)]
    assert (summary["best"], summary["direction"]) == (1, "maximize")
    stopped, stopped_run = _record(summary["trials"][2]), summary["trials"][2]["run"]
    assert (stopped.status, stopped.results) == (Status.PRUNED, {})
    assert stopped.error == "stopped by the search after epoch 1, known 0.1000"
    rows = [json.loads(row) for row in (RUNS / "own" / stopped_run / "steps.jsonl").read_text().splitlines()]
    assert {row["epoch"] for row in rows} == {0}

    study = optuna.load_study(study_name="medexp", storage=f"sqlite:///{RUNS / 'own' / 'optuna.db'}")
    for before, after in pairwise(study.trials):  # none is asked for before the one before it is known
        assert before.datetime_complete < after.datetime_start
    study._storage.remove_session()

    assert main(["status", "own"]) == 0
    assert "1 pruned, 2 finished" in capsys.readouterr().out
    assert main(command) == 0  # again, as a search
    alone = [word for word in known if not word.startswith("search") and word != "preflight=off"]
    assert main([*alone, "loss.alpha=0.1,0.5"]) == 1  # and as a sweep
    assert "loss.alpha=0.1" in capsys.readouterr().err
    assert _record(summary["trials"][2]) == stopped


def test_a_trial_that_fails_stops_no_other_and_equal_values_are_trained_once(
    known: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    # By its seed the search draws 0.5, -1 and 0.5 again.
    values = ["search/sampler=random", "search.n_trials=3", "search/pruner=none", "loss.alpha=0.5,-1"]
    assert main([*known, *values]) == 0
    told = capsys.readouterr()
    trials = _summary()["trials"]
    (failed,) = (trial for trial in trials if trial["values"]["loss.alpha"] == "-1")
    one, other = (trial for trial in trials if trial != failed)
    assert (failed["state"], failed["error"]) == ("failed", "RuntimeError: alpha is -1")
    assert f"trial {failed['number']} failed: RuntimeError: alpha is -1" in told.err
    assert (one["objective"], other["objective"]) == (0.5, 0.5)
    assert one["run"] == other["run"]
    assert told.out.count(": finished") == 1

    assert main([*known, *values, "retry=failed"]) == 0
    assert _summary()["trials"] == [*trials, {**failed, "number": 3}]


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 100
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.soak
def test_a_search_that_is_killed_goes_on_with_its_trials_and_makes_no_others(
    known: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    random = ["search/sampler=random", "search/pruner=none", "loss.alpha=interval(0,1)", "search.n_trials=3"]
    command = [*known, *random, "trainer.max_epochs=4", "launcher.n_jobs=2"]
    running = subprocess.Popen([*COMMAND, *command], text=True, env={**os.environ, "DAWDLE_S": "0.3"})
    steps = RUNS / "own"
    _wait_for(lambda: len([f for f in steps.glob("*/steps.jsonl") if f.read_text().count("\n") >= 2]) == 2, running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    interrupted = {path.parent.name for path in steps.glob("*/run.json")}
    assert len(interrupted) == 2

    assert main(command) == 0
    assert "3 trials: 3 complete" in capsys.readouterr().out
    trials = _summary()["trials"]
    assert {trial["run"] for trial in trials[:2]} == interrupted
    for trial in trials:
        assert _record(trial).status is Status.FINISHED
        assert trial["objective"] == float(trial["values"]["loss.alpha"])
    for run in interrupted:
        assert "resuming from step" in (RUNS / "own" / run / "log.txt").read_text()
