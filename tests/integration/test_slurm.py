"""Jobs on a real Slurm: that of this machine, which tests/slurm/start starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from medexp.cli.main import main
from medexp.core.record import RunFolder, Status

STUDY = Path("runs/own")


@pytest.fixture(scope="module", autouse=True)
def slurm() -> None:
    """Skips where no Slurm answers."""
    if shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True, check=False).returncode:
        pytest.skip("no Slurm answers here; tests/slurm/start starts one on a Debian machine, as root")


def _command(experiment: Path, *overrides: str) -> list[str]:
    knobs = ["launcher=slurm", "launcher.cpus_per_task=1", "launcher.poll_s=0.5", "launcher.mem_gb=2"]
    return ["train", "-m", str(experiment), *overrides, *knobs]


def _squeue(fields: str) -> str:
    command = ["squeue", "--noheader", "--array", f"--format={fields}", "--name=medexp"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _wait_for(condition: Callable[[], bool], *, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


@pytest.mark.slow
def test_an_array_of_jobs_leaves_the_same_records_as_this_machine(
    own_loss: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "-m", str(own_loss), "loss.alpha=0.1", "study=here", "preflight=build"]) == 0
    capsys.readouterr()
    command = _command(own_loss, "loss.alpha=0.1,-1", "preflight=build")
    assert main(command) == 1
    told = capsys.readouterr()
    assert "not finished: runs/own/loss.alpha=-1: failed RuntimeError: alpha is -1" in told.err
    assert "study own: 1 of 2 jobs done" in told.out
    evidence = [pd.read_csv(folder / "loss.alpha=0.1" / "evidence.csv") for folder in (STUDY, Path("runs/here"))]
    pd.testing.assert_frame_equal(*evidence)
    assert not _squeue("%i")
    assert main(["status", "own"]) == 0
    assert "1 finished" in capsys.readouterr().out


@pytest.mark.soak
def test_a_job_that_is_told_to_save_is_queued_again_and_goes_on_where_it_was(own_loss: Path) -> None:
    command = _command(own_loss, "trainer.max_steps=40", "preflight=off", "launcher.wait=false")
    job = RunFolder(STUDY / "trainer.max_steps=40")
    os.environ["DAWDLE_S"] = "0.4"
    try:
        assert main(command) == 1
    finally:
        del os.environ["DAWDLE_S"]
    _wait_for(job.progress.exists)
    number = _squeue("%A")
    # As Slurm does before a job's time is over, and when a job of a higher partition takes its place.
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    _wait_for(lambda: _squeue("%t") == "PD")
    assert job.read().status is Status.KILLED
    assert main(["status", "own"]) == 0
    # The same command does not submit what is in the queue already.
    assert main(command) == 1
    assert _squeue("%A") == number
    subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True)
    _wait_for(lambda: job.read().status is Status.FINISHED, seconds=180)
    log = job.log.read_text()
    assert "resuming from step" in log
    assert "finished already" not in log


def test_a_machine_that_cannot_submit_is_told_so(
    own_loss: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(own_loss.parent))
    assert main(["train", "-m", str(own_loss), "launcher=slurm"]) == 2
    assert "launcher=slurm needs sbatch" in capsys.readouterr().err
