from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medexp.cli.main import main
from medexp.core.record import Record, RunFolder, Status

RUNS = Path("runs")
COMMAND = (sys.executable, "-m", "medexp.cli.main")


def _records(study: str) -> dict[str, Record]:
    return {path.parent.name: RunFolder(path.parent).read() for path in sorted((RUNS / study).glob("*/run.json"))}


def _run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **environment}
    )


def test_a_sweep_leaves_a_finished_run_for_each_job_and_the_same_command_again_does_nothing(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "-m", str(tiny), "loss=dice,focal"]
    assert main(command) == 0
    assert "study tiny: 2 of 2 jobs done" in capsys.readouterr().out
    first = _records("tiny")
    assert list(first) == ["loss=dice", "loss=focal"]
    assert {record.status for record in first.values()} == {Status.FINISHED}
    assert [record.axes for record in first.values()] == [{"loss": "dice"}, {"loss": "focal"}]
    checkpoints = {path: path.stat().st_mtime_ns for path in RUNS.rglob("*.ckpt")}
    assert len(checkpoints) == 2

    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.count("finished already") == 2
    assert "study tiny: 2 of 2 jobs done" in told
    assert _records("tiny") == first
    assert {path: path.stat().st_mtime_ns for path in RUNS.rglob("*.ckpt")} == checkpoints


def test_a_job_of_a_sweep_and_the_same_run_alone_share_a_folder(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", str(tiny), "optimizer.lr=1e-3", "seed=0..0"]) == 0
    assert main(["train", str(tiny), "seed=0", "optimizer.lr=0.001"]) == 0
    assert capsys.readouterr().out.count("finished already") == 1
    assert list(_records("tiny")) == ["optimizer.lr=0.001,seed=0"]


def test_status_lists_the_runs_of_a_sweep(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "-m", str(tiny), "loss=dice,focal"])
    capsys.readouterr()
    assert main(["status", "tiny"]) == 0
    _, dice, focal, count = capsys.readouterr().out.splitlines()
    assert dice.split()[:3] == ["loss=dice", "finished", "dice"]
    assert focal.split()[:3] == ["loss=focal", "finished", "dice"]
    assert count == "2 finished"
    assert main(["status", "tiny", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert [run["axes"] for run in runs] == [{"loss": "dice"}, {"loss": "focal"}]
    assert all(0 <= run["results"]["dice"]["mean"] <= 1 for run in runs)


@pytest.fixture
def edited(tiny: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The command of a sweep that is finished, whose experiment was edited since."""
    command = ["train", "-m", str(tiny), "loss=dice,focal"]
    assert main(command) == 0
    tiny.write_text(tiny.read_text().replace("max_steps: 2", "max_steps: 3"))
    capsys.readouterr()
    return command


def test_an_edited_experiment_is_refused_with_all_that_differs(
    edited: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _records("tiny")
    assert main(edited) == 1
    told = capsys.readouterr()
    assert told.err.count("trainer.max_steps: 2 -> 3") == 2
    assert told.err.count("not finished: runs/tiny/loss=") == 2
    assert "study tiny: 0 of 2 jobs done" in told.out
    assert _records("tiny") == before


@pytest.mark.soak
def test_an_edited_experiment_starts_anew_on_demand_and_the_old_runs_are_kept(edited: list[str]) -> None:
    old = _records("tiny")
    assert main([*edited, "on_change=new"]) == 0
    records = _records("tiny")
    aside = {name.split(".before-")[0]: record for name, record in records.items() if ".before-" in name}
    assert {name: record.fingerprint for name, record in aside.items()} == {
        name: record.fingerprint for name, record in old.items()
    }
    assert [OmegaConf.load(RUNS / "tiny" / name / "config.yaml").trainer.max_steps for name in old] == [3, 3]
    assert main(["status", "tiny"]) == 0


@pytest.mark.soak
def test_an_edited_experiment_goes_on_on_demand(edited: list[str]) -> None:
    assert main([*edited, "on_change=resume"]) == 0
    for name, record in _records("tiny").items():
        assert record.status is Status.FINISHED
        assert any("trainer.max_steps: 2 -> 3" in note for note in record.notes)
        assert "resuming from step00000002" in (RUNS / "tiny" / name / "log.txt").read_text()


def test_a_job_that_fails_leaves_the_others_alone_and_is_listed(
    own_loss: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", str(own_loss), "loss.alpha=0.1,-1,0.2"]) == 1
    told = capsys.readouterr()
    assert "not finished: runs/own/loss.alpha=-1: RuntimeError: alpha is -1" in told.err
    assert told.err.count("not finished") == 1
    assert "the launcher failed" not in told.err
    assert "study own: 2 of 3 jobs done" in told.out
    states = {name: (record.status, record.error) for name, record in _records("own").items()}
    assert states == {
        "loss.alpha=-1": (Status.FAILED, "RuntimeError: alpha is -1"),
        "loss.alpha=0.1": (Status.FINISHED, None),
        "loss.alpha=0.2": (Status.FINISHED, None),
    }


def test_a_job_that_cannot_be_built_leaves_the_others_alone(own_loss: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_loss.write_text(own_loss.read_text().replace("alpha: 0.3", "alpha: 0.3, alhpa: 1"))
    assert main(["train", "-m", str(own_loss), "loss=dice,of_own"]) == 1
    told = capsys.readouterr().err
    assert "loss=of_own" in told
    assert "alhpa" in told
    assert {name: record.status for name, record in _records("own").items()} == {"loss=dice": Status.FINISHED}


def test_a_run_that_fails_alone_ends_with_code_1(own_loss: Path) -> None:
    done = _run("train", str(own_loss), "loss.alpha=-1")
    assert done.returncode == 1
    assert "RuntimeError: alpha is -1" in done.stderr
    assert _records("own")["loss.alpha=-1"].status is Status.FAILED


def test_a_loss_beside_the_experiment_is_found_from_another_directory(
    own_loss: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = own_loss.parents[1] / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["train", "../project/own.yaml"]) == 0
    (record,) = _records("own").values()
    assert record.status is Status.FINISHED
    assert f"losses_of_{own_loss.parents[1].name}.py" in record.fingerprint["code"]


def test_a_loss_of_ones_own_is_an_option_through_a_folder_of_options(tiny: Path, own_loss: Path) -> None:
    module = f"losses_of_{tiny.parent.name}"
    (own_loss.parent / f"{module}.py").rename(tiny.parent / f"{module}.py")
    (tiny.parent / "conf" / "loss").mkdir(parents=True)
    (tiny.parent / "conf" / "loss" / "mine.yaml").write_text(f"_target_: {module}.Mine\nalpha: 0.5\n")
    assert main(["train", "-m", "-cd", "conf", str(tiny), "loss=mine,focal"]) == 0
    assert list(_records("tiny")) == ["loss=focal", "loss=mine"]
    assert OmegaConf.load(RUNS / "tiny" / "loss=mine" / "config.yaml").loss.alpha == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.soak)])
def test_a_sweep_that_is_stopped_starts_no_other_job_and_the_same_command_finishes_it(
    number: signal.Signals, own_loss: Path
) -> None:
    command = ["train", "-m", str(own_loss), "seed=0,1", "trainer.max_steps=12"]
    running = subprocess.Popen(
        [*COMMAND, *command], stderr=subprocess.PIPE, text=True, env={**os.environ, "DAWDLE_S": "0.5"}
    )
    steps = RUNS / "own" / "seed=0,trainer.max_steps=12" / "steps.jsonl"
    _wait_for(lambda: steps.exists() and steps.read_text().count("\n") >= 2, running)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert f"stopped by {number.name} after step" in told
    assert "Traceback" not in told
    assert {name: record.status for name, record in _records("own").items()} == {steps.parent.name: Status.KILLED}

    again = _run(*command)
    assert again.returncode == 0
    assert "resuming from step" in (steps.parent / "log.txt").read_text()
    assert {record.status for record in _records("own").values()} == {Status.FINISHED}
    assert len(_records("own")) == 2


def _wait_for(condition: object, process: subprocess.Popen[str]) -> None:
    assert callable(condition)
    until = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.soak
def test_jobs_in_processes_of_a_launcher_find_the_experiment_its_module_and_their_folders(own_loss: Path) -> None:
    command = ["train", "-m", str(own_loss), "loss.alpha=0.1,-1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = _run(*command)
    assert done.returncode == 1
    assert "not finished: runs/own/loss.alpha=-1: RuntimeError: alpha is -1" in done.stderr
    assert "study own: 1 of 2 jobs done" in done.stdout
    states = {name: record.status for name, record in _records("own").items()}
    assert states == {"loss.alpha=-1": Status.FAILED, "loss.alpha=0.1": Status.FINISHED}
    config = OmegaConf.load(RUNS / "own" / "loss.alpha=0.1" / "config.yaml")
    assert (config.axes, config.trainer.max_steps, config.study) == ({"loss.alpha": "0.1"}, 2, "own")
    assert [step["_target_"] for step in config.post_processing.steps] == ["medexp.post_processing.argmax.Argmax"]


@pytest.mark.soak
def test_a_launcher_that_loses_a_process_is_told_and_the_runs_are_judged_by_their_records(own_loss: Path) -> None:
    command = ["train", "-m", str(own_loss), "loss.alpha=-2,-1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = _run(*command)
    assert done.returncode == 1
    assert "the launcher failed: TerminatedWorkerError" in done.stderr
    assert "not finished: runs/own/loss.alpha=-2: killed" in done.stderr
    assert "study own: 0 of 2 jobs done" in done.stdout


@pytest.mark.slow
def test_jobs_through_the_clusters_launcher_on_this_machine(tiny: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = _run("train", "-m", str(tiny), "seed=0,1", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stderr
    assert {name: record.status for name, record in _records("tiny").items()} == {
        "seed=0": Status.FINISHED,
        "seed=1": Status.FINISHED,
    }
    assert main(["status", "tiny"]) == 0
