from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medexp.cli.main import main
from medexp.compare.status import count_by_status, read_study, study_folder
from medexp.core.errors import UsageError
from medexp.core.record import Record, RunFolder, Status, run_folder
from medexp.core.waiting import Waiting, end_waiting

RUNS = Path("runs")


def _record(study: str = "first", **knobs: Any) -> RunFolder:
    axes = knobs.pop("axes", {"seed": "0"})
    folder = run_folder(RUNS, study, axes)
    folder.path.mkdir(parents=True)
    folder.write(Record(study=study, axes=axes, **knobs))
    return folder


def _table(capsys: pytest.CaptureFixture[str], *words: str) -> list[list[str]]:
    assert main(["status", *words]) == 0
    return [[cell for cell in line.split("  ") if cell.strip()] for line in capsys.readouterr().out.splitlines()]


def test_each_run_is_a_line_with_state_score_time_and_reason(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _record(
        axes={"loss": "dice", "seed": "1"},
        status=Status.FINISHED,
        results={"dice": {"liver": 0.75, "mean": 0.8125}, "hd95": {"mean": 3.0}},
        seconds={"training": 90.0, "evaluation": 30.0},
    )
    _record(axes={"loss": "focal", "seed": "1"}, status=Status.FAILED, error="ValueError: first line\nsecond line")
    header, dice, focal, count = _table(capsys, "first")
    assert [cell.strip() for cell in header] == ["run", "status", "at", "score", "minutes", "left", "reason"]
    assert [cell.strip() for cell in dice] == ["loss=dice,seed=1", "finished", "dice 0.8125", "2.0"]
    assert [cell.strip() for cell in focal] == [
        "loss=focal,seed=1",
        "failed",
        "0.0",
        "ValueError: first line second line",
    ]
    assert count == ["1 finished, 1 failed"]


def test_a_long_name_stays_on_one_line_where_a_program_reads_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = {f"dataset.source.knob_{number}": "0.123456789" for number in range(4)}
    _record(axes=axes, status=Status.FINISHED)
    assert len(_table(capsys, "first")) == 3


def test_an_undefined_score_is_said_to_be_undefined(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _record(status=Status.FINISHED, results={"dice": {"mean": None}})
    assert "dice undefined" in "  ".join(_table(capsys, "first")[1])


def test_a_run_whose_process_is_gone_is_killed_and_one_that_is_held_is_running(here: Path) -> None:
    held = _record(axes={"seed": "0"}, status=Status.RUNNING)
    _record(axes={"seed": "1"}, status=Status.RUNNING)
    with held.lock():
        states = list(read_study(RUNS / "first"))
        assert {state.name: state.status for state in states} == {"seed=0": "running", "seed=1": "killed"}
        assert count_by_status(states) == "1 running, 1 killed"


def test_a_damaged_record_is_listed_and_hides_no_other(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _record(axes={"seed": "0"}, status=Status.FINISHED)
    damaged = _record(axes={"seed": "1"}, status=Status.FINISHED)
    (damaged.path / "run.json").write_text('{"study": ')
    *_, line, count = _table(capsys, "first")
    assert [cell.strip() for cell in line][:2] == ["seed=1", "damaged"]
    assert "run.json is damaged" in line[-1]
    assert count == ["1 finished, 1 damaged"]
    assert main(["status", "first", "--json"]) == 0
    assert [run["status"] for run in json.loads(capsys.readouterr().out)] == ["finished", "damaged"]


def test_runs_that_were_set_aside_and_other_folders_are_left_out(here: Path) -> None:
    run = _record(status=Status.FINISHED)
    run.path.rename(run.path.with_name(f"{run.path.name}.before-2026-01-01T000000+0000"))
    _record(axes={"seed": "1"}, status=Status.FINISHED)
    (RUNS / "first" / ".submitit").mkdir()
    (RUNS / "first" / "multirun.yaml").write_text("")
    assert [state.name for state in read_study(RUNS / "first")] == ["seed=1"]


def test_json_holds_the_whole_records(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _record(axes={"loss": "dice"}, status=Status.FINISHED, results={"dice": {"mean": 0.5}}, notes=["a note"])
    assert main(["status", "first", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert run["folder"] == "runs/first/loss=dice"
    assert (run["status"], run["results"], run["notes"]) == ("finished", {"dice": {"mean": 0.5}}, ["a note"])


def test_a_study_is_found_by_its_name_in_another_folder_and_as_a_path(here: Path) -> None:
    _record(study="a/b ü", status=Status.FINISHED)
    folder = study_folder("a/b ü", RUNS)
    assert [state.name for state in read_study(folder)] == ["seed=0"]
    assert study_folder(str(folder), Path("elsewhere")) == folder


def test_an_unknown_study_is_told_with_the_nearest_and_all_known_ones(here: Path) -> None:
    _record(study="first")
    _record(study="second")
    with pytest.raises(UsageError, match=r"no study frist under runs; did you mean first\? \(known: first, second\)"):
        study_folder("frist", RUNS)
    with pytest.raises(UsageError, match=r"no study first under nowhere \(known: none\)"):
        study_folder("first", Path("nowhere"))


def test_a_study_without_runs_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (RUNS / "first").mkdir(parents=True)
    assert _table(capsys, "first") == [["no runs"]]


def test_a_job_that_waits_is_queued_until_its_record_begins(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(RUNS, "first", {"seed": "0"})
    Waiting.here({"seed": "0"}, "local").write(folder.path)
    (state,) = read_study(RUNS / "first")
    assert (state.name, state.status) == ("seed=0", "queued")
    folder.write(Record(study="first", axes={"seed": "0"}, status=Status.FINISHED))
    end_waiting(folder.path)
    (state,) = read_study(RUNS / "first")
    assert state.status == "finished"


def test_a_job_whose_sweep_is_gone_was_not_started_or_is_what_its_record_says(here: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    waiting = replace(Waiting.here({"seed": "0"}, "local"), id=f"{socket.gethostname()}:{gone.pid}")
    folder = run_folder(RUNS, "first", {"seed": "0"})
    waiting.write(folder.path)
    (state,) = read_study(RUNS / "first")
    assert state.status == "not started"
    folder.write(Record(study="first", axes={"seed": "0"}, status=Status.KILLED))
    (state,) = read_study(RUNS / "first")
    assert state.status == "killed"


def test_a_job_that_ended_before_its_record_began_has_failed_with_its_reason(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = replace(Waiting.here({"seed": "0"}, "slurm"), id="12_3", error="UsageError: no\nsuch thing")
    waiting.write(run_folder(RUNS, "first", {"seed": "0"}).path)
    assert main(["status", "first", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["status"], run["error"]) == ("failed", "UsageError: no such thing")


def test_a_run_tells_how_far_it_is(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _record(status=Status.RUNNING)
    progress = {"epoch": 3, "epochs": 20, "step": 30, "steps": 200, "metric": "val/dice", "value": 0.5, "left_s": 125.0}
    folder.progress.write_text(json.dumps(progress))
    with folder.lock():
        _, line, _ = _table(capsys, "first")
    assert [cell.strip() for cell in line] == ["seed=0", "running", "epoch 3/20", "val/dice 0.5000", "0.0", "2:05"]


def test_watching_ends_when_nothing_is_under_way(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _record(status=Status.FINISHED)
    assert main(["status", "first", "--watch"]) == 0
    assert "1 finished" in capsys.readouterr().out
