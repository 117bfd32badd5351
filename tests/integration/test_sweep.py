from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medexp.cli.main import main
from medexp.core.hardware import available_cores
from medexp.core.record import Record, RunFolder, Status

RUNS = Path("runs")
COMMAND = (sys.executable, "-m", "medexp.cli.main")


def _records(study: str) -> dict[str, Record]:
    return {path.parent.name: RunFolder(path.parent).read() for path in sorted((RUNS / study).glob("*/run.json"))}


def _run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **environment}
    )


def test_a_sweep_leaves_a_finished_run_for_each_job_and_the_same_command_again_does_nothing_but_list_them(
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
    assert [line.split()[1] for line in told.splitlines() if line.startswith("loss=")] == ["finished", "finished"]
    assert "study tiny: 2 of 2 jobs done" in told
    assert _records("tiny") == first
    assert {path: path.stat().st_mtime_ns for path in RUNS.rglob("*.ckpt")} == checkpoints
    _assert_status_lists_them(capsys)


def test_a_longer_command_runs_only_what_is_new(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", str(tiny), "seed=0,1"]) == 0
    before = _records("tiny")
    capsys.readouterr()
    assert main(["train", "-m", str(tiny), "seed=0..2"]) == 0
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if line.startswith("seed=") and ": running" in line] in (
        ["seed=2: running"],
        [],  # it was too quick to be seen
    )
    after = _records("tiny")
    assert {name: after[name] for name in before} == before
    assert after["seed=2"].status is Status.FINISHED


def test_a_job_of_a_sweep_and_the_same_run_alone_share_a_folder(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "-m", str(tiny), "optimizer.lr=1e-3", "seed=0..0"]) == 0
    assert main(["train", str(tiny), "seed=0", "optimizer.lr=0.001"]) == 0
    assert capsys.readouterr().out.count("finished already") == 1
    assert list(_records("tiny")) == ["optimizer.lr=0.001,seed=0"]


def _assert_status_lists_them(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_an_edited_experiment_is_refused_with_all_that_differs_before_anything_starts(
    edited: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = _records("tiny")
    assert main(edited) == 1
    told = capsys.readouterr()
    assert told.err.count("trainer.max_steps: 2 -> 3") == 2
    assert "2 jobs cannot run, so that none was started" in told.err
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


def test_a_job_that_fails_or_is_killed_leaves_the_others_alone_and_is_told(
    own_loss: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "-m", str(own_loss), "loss.alpha=0.1,-1,-2,0.2", "preflight=off"]
    assert main(command) == 1
    told = capsys.readouterr()
    assert "not finished: runs/own/loss.alpha=-1: failed RuntimeError: alpha is -1" in told.err
    assert "not finished: runs/own/loss.alpha=-2: killed" in told.err
    assert told.err.count("not finished") == 2
    assert "study own: 2 of 4 jobs done" in told.out
    states = {name: (record.status, record.error) for name, record in _records("own").items()}
    assert states == {
        "loss.alpha=-1": (Status.FAILED, "RuntimeError: alpha is -1"),
        "loss.alpha=-2": (Status.KILLED, None),
        "loss.alpha=0.1": (Status.FINISHED, None),
        "loss.alpha=0.2": (Status.FINISHED, None),
    }
    assert "alpha is -1" in (RUNS / "own" / "loss.alpha=-1" / "output.txt").read_text()


def test_a_job_that_failed_runs_again_only_on_request(own_loss: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "-m", str(own_loss), "loss.alpha=-1", "preflight=off"]
    assert main(command) == 1
    first = _records("own")["loss.alpha=-1"]
    assert main(command) == 1
    assert _records("own")["loss.alpha=-1"] == first
    assert "retry=failed runs failed jobs again" in capsys.readouterr().err
    assert main([*command, "retry=failed"]) == 1
    assert _records("own")["loss.alpha=-1"].ended != first.ended or (
        (RUNS / "own" / "loss.alpha=-1" / "output.txt").read_text().count("Traceback") == 2
    )


def test_a_bad_job_stops_the_study_before_anything_is_queued(
    own_loss: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", str(own_loss), "loss.alpha=0.1,-1,-2"]) == 1
    told = capsys.readouterr().err
    assert "2 jobs cannot run, so that none was started" in told
    assert "loss.alpha=-1: RuntimeError: alpha is -1" in told
    assert "loss.alpha=-2: the process that tried it was killed" in told
    assert not _records("own")


def test_a_job_that_cannot_be_built_stops_the_study_and_leaves_the_others_alone_without_a_preflight(
    own_loss: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_loss.write_text(own_loss.read_text().replace("alpha: 0.3", "alpha: 0.3, alhpa: 1"))
    command = ["train", "-m", str(own_loss), "loss=dice,of_own"]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert "1 job cannot run" in told
    assert "alhpa" in told
    assert not _records("own")
    assert main([*command, "preflight=off"]) == 1
    assert "runs/own/loss=of_own: failed UsageError" in capsys.readouterr().err
    assert {name: record.status for name, record in _records("own").items()} == {"loss=dice": Status.FINISHED}
    assert main(["status", "own"]) == 0
    assert "alhpa" in capsys.readouterr().out


def test_a_preflight_records_nothing_but_what_the_study_shares(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_text(tiny.read_text().replace("threads: 1", "threads: auto"))
    command = ["train", "-m", str(tiny), "seed=0,1", "launcher.n_jobs=2"]
    assert main(command) == 0
    told = capsys.readouterr().out
    table = [line.split() for line in told.splitlines() if line.startswith("seed=") and ": " not in line]
    assert [cells[:3] for cells in table] == [["seed=0", "new", "2"], ["seed=1", "new", "2"]]
    parameters, step_s, _, memory_mb, _ = table[0][3:]
    assert int(parameters.replace(",", "")) > 0
    assert float(step_s) > 0
    assert float(memory_mb.replace(",", "")) > 50
    pinned = json.loads((RUNS / "tiny" / "study.json").read_text())
    assert pinned["threads"]["value"] == max(1, available_cores() // 2)


def test_a_job_over_its_time_saves_and_stops_and_the_others_run(
    own_loss: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAWDLE_S", "0.3")
    command = ["train", "-m", str(own_loss), "trainer.max_steps=2,200", "preflight=off"]
    assert main([*command, "launcher.time_limit_min=0.1"]) == 1
    assert "trainer.max_steps=200: over launcher.time_limit_min" in capsys.readouterr().err
    records = dict(_records("own").items())
    assert records["trainer.max_steps=2"].status is Status.FINISHED
    assert records["trainer.max_steps=200"].status is Status.KILLED
    assert "stopped by SIGTERM after step" in (records["trainer.max_steps=200"].error or "")


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
def test_a_sweep_that_is_stopped_lets_its_jobs_save_starts_no_other_and_the_same_command_finishes_it(
    number: signal.Signals, own_loss: Path
) -> None:
    command = ["train", "-m", str(own_loss), "seed=0,1", "trainer.max_steps=12", "preflight=off"]
    running, steps = _begun(command, dawdle_s=0.5)
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "running jobs have saved their state; the same command goes on" in told
    assert "Traceback" not in told
    assert {name: record.status for name, record in _records("own").items()} == {steps.parent.name: Status.KILLED}

    assert main(command) == 0
    assert "resuming from step" in (steps.parent / "log.txt").read_text()
    assert {record.status for record in _records("own").values()} == {Status.FINISHED}
    assert len(_records("own")) == 2


@pytest.mark.soak
def test_a_sweep_that_is_stopped_twice_ends_its_jobs_at_once(own_loss: Path) -> None:
    command = ["train", "-m", str(own_loss), "seed=0", "trainer.max_steps=12", "preflight=off"]
    running, steps = _begun(command, dawdle_s=20.0, at_least=0)
    running.send_signal(signal.SIGINT)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=15)
    assert running.returncode == 1
    assert _records("own")[steps.parent.name].status is Status.KILLED


@pytest.mark.slow
@pytest.mark.soak
def test_jobs_of_a_sweep_that_was_killed_save_and_stop_and_the_same_command_finishes_it(own_loss: Path) -> None:
    command = ["train", "-m", str(own_loss), "seed=0", "trainer.max_steps=12", "preflight=off"]
    running, steps = _begun(command, dawdle_s=0.5)
    running.kill()
    running.communicate(timeout=60)
    folder = RunFolder(steps.parent)
    _wait_for(lambda: not folder.is_locked())
    assert "stopped by SIGTERM after step" in (folder.read().error or "")
    assert _run(*command).returncode == 0
    assert folder.read().status is Status.FINISHED


def _begun(command: list[str], *, dawdle_s: float, at_least: int = 2) -> tuple[subprocess.Popen[str], Path]:
    """A sweep of slow jobs whose first one has trained some steps, and the file of these."""
    running = subprocess.Popen(
        [*COMMAND, *command], stderr=subprocess.PIPE, text=True, env={**os.environ, "DAWDLE_S": str(dawdle_s)}
    )
    steps = RUNS / "own" / "seed=0,trainer.max_steps=12" / "steps.jsonl"
    progress = steps.with_name("progress.json")
    _wait_for(
        lambda: (
            steps.exists()
            and (not at_least or (progress.exists() and json.loads(progress.read_text()).get("step", 0) >= 1))
        ),
        running,
    )
    return running, steps


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.soak
def test_jobs_in_joblibs_pool_leave_the_same_record(own_loss: Path) -> None:
    command = ["train", "-m", str(own_loss), "loss.alpha=0.1,-1,0.2", "launcher=joblib", "preflight=off"]
    done = _run(*command)
    assert done.returncode == 1
    assert "not finished: runs/own/loss.alpha=-1: failed RuntimeError: alpha is -1" in done.stderr
    assert "study own: 2 of 3 jobs done" in done.stdout
    config = OmegaConf.load(RUNS / "own" / "loss.alpha=0.1" / "config.yaml")
    assert (config.axes, config.trainer.max_steps, config.study) == ({"loss.alpha": "0.1"}, 2, "own")
    assert [step["_target_"] for step in config.post_processing.steps] == ["medexp.post_processing.argmax.Argmax"]
    assert "alpha is -1" in (RUNS / "own" / "loss.alpha=-1" / "output.txt").read_text()


@pytest.mark.soak
def test_a_pool_of_joblibs_that_loses_a_process_runs_the_jobs_that_had_not_begun(own_loss: Path) -> None:
    command = ["train", "-m", str(own_loss), "loss.alpha=-2,0.1,0.2,0.3", "launcher=joblib", "preflight=off"]
    done = _run(*command, "launcher.n_jobs=1")
    assert done.returncode == 1
    assert "not finished: runs/own/loss.alpha=-2: killed" in done.stderr
    assert "study own: 3 of 4 jobs done" in done.stdout


@pytest.mark.slow
def test_jobs_on_a_ray_of_this_machine_leave_the_same_record(own_loss: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (pip install medexp[ray])")
    command = ["train", "-m", str(own_loss), "loss.alpha=0.1,-1,-2", "launcher=ray", "preflight=off"]
    done = _run(*command)
    assert done.returncode == 1
    assert "not finished: runs/own/loss.alpha=-1: failed RuntimeError: alpha is -1" in done.stderr
    assert "not finished: runs/own/loss.alpha=-2: killed" in done.stderr
    assert "study own: 1 of 3 jobs done" in done.stdout
