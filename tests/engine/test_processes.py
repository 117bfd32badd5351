"""Training on several processes: two on the CPU, over gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from tiny import tiny, train_tiny

from medexp.core.errors import UsageError
from medexp.core.record import RunFolder, Status
from medexp.core.types import EvidenceRow
from medexp.engine.checkpoints import CheckpointFolder, load_checkpoint
from medexp.engine.module import joined_evidence
from medexp.engine.processes import Processes, launched_place, wanted_processes
from medexp.engine.run import Run

# Plain gradient descent: Adam would turn rounding errors of gradients near zero into whole steps.
_TWO = (
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "optimizer=sgd",
    "optimizer.lr=0.1",
    "dataset.split.n_folds=3",
)
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in list(os.environ):
        if name in _LAUNCHERS or name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def _weights(run: Run) -> dict[str, torch.Tensor]:
    newest = CheckpointFolder(run.folder.checkpoints).newest()
    assert newest is not None
    return load_checkpoint(newest)["state_dict"]


def _command(runs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "medexp.cli.main", "train", *tiny(runs, *overrides)]


def _until(condition, *, seconds: float = 90.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def _child(pid: int) -> int | None:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else None


def _steps(folder: Path) -> int:
    file = folder / "steps.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize(
    "more",
    [pytest.param((), marks=pytest.mark.soak), ("augmentation=light", "trainer.accumulate=2", "dataset.workers=1")],
)
def test_two_processes_are_one_process_with_the_joined_batch_and_judge_each_case_once(tmp_path, more):
    knobs = (*_TWO, "trainer.validate_every_epochs=1", "overlays=3", "save_predictions=true", *more)
    one = train_tiny(tmp_path / "one", *knobs, "dataset.batch_size=2")
    two = train_tiny(tmp_path / "two", *knobs, "dataset.batch_size=1", "trainer.devices=2")
    assert two.record.status is Status.FINISHED
    before, after = _weights(one), _weights(two)
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=2e-6), name
    assert len(two.history) == 3
    assert np.allclose(one.history, two.history, atol=1e-5, equal_nan=True)
    rows = [json.loads(line) for line in two.folder.steps.read_text().splitlines()]
    assert {row["images"] for row in rows if "loss" in row} == {2}
    _assert_judged_alike(one, two)


def _assert_judged_alike(one: Run, two: Run) -> None:
    """Each case is judged once and in order, though two processes cannot share them evenly."""
    cases = two.cases["case_id"].tolist()
    assert len(cases) % 2 == 1, "the test needs a number of cases that two processes cannot share evenly"
    assert cases == one.cases["case_id"].tolist()
    assert two.evidence[["case_id", "metric", "label"]].equals(one.evidence[["case_id", "metric", "label"]])
    for part in ("overlays", "predictions"):
        assert [path.name for path in sorted((two.path / part).iterdir())] == [
            path.name for path in sorted((one.path / part).iterdir())
        ]


@pytest.mark.soak
def test_running_statistics_of_batch_norm_do_not_hang_an_uneven_validation(tmp_path):
    run = train_tiny(
        tmp_path / "runs", *_TWO, "model.norm=BATCH", "trainer.validate_every_epochs=1", "trainer.devices=2"
    )
    assert run.record.status is Status.FINISHED
    assert run.history["val/dice/mean"].notna().all()


@pytest.mark.soak
def test_a_killed_process_ends_the_run_with_a_clear_status_and_it_resumes(tmp_path):
    knobs = (*_TWO, "trainer.max_epochs=400", "trainer.devices=2", "trainer.checkpoints.every_epochs=1")
    folder = tmp_path / "runs" / "default"
    with subprocess.Popen(_command(tmp_path / "runs", *knobs, "study=default"), stderr=subprocess.PIPE) as process:
        _until(lambda: list(folder.glob("*/checkpoints/index.json")))
        child = _child(process.pid)
        assert child is not None
        os.kill(child, signal.SIGKILL)
        _, told = process.communicate(timeout=60)
    (run,) = (path for path in folder.iterdir() if path.is_dir())
    record = RunFolder(run).read()
    assert process.returncode == 1
    assert record.status is Status.FAILED
    assert "process 1 of 2 was ended by SIGKILL" in str(record.error)
    assert b"process 1 of 2 was ended by SIGKILL" in told
    with subprocess.Popen(_command(tmp_path / "runs", *knobs, "study=default")) as process:
        trained = _steps(run)
        _until(lambda: _steps(run) > trained)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 1
    record = RunFolder(run).read()
    assert record.status is Status.KILLED
    assert "state saved" in str(record.error)
    steps = pd.DataFrame(json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines())
    assert steps["batch"].tolist() == list(range(len(steps)))


@pytest.mark.soak
def test_torchrun_s_processes_are_recognised(tmp_path):
    words = tiny(tmp_path / "runs", *_TWO, "trainer.max_epochs=1", "trainer.devices=2", "study=default")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for attempt in ("trained", "found done"):
        done = subprocess.run(
            [*command, "-m", "medexp.cli.main", "train", *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == (0 if attempt == "trained" else 1), done.stdout + done.stderr
    (run,) = (path for path in (tmp_path / "runs" / "default").iterdir() if path.is_dir())
    assert RunFolder(run).read().status is Status.FINISHED
    assert len(Run(run).cases) == 3


def _config(**trainer):
    knobs = {"devices": 1, "num_nodes": 1, "accelerator": "cpu"} | trainer
    return OmegaConf.create({"trainer": knobs})


@pytest.mark.parametrize(
    ("trainer", "wanted"),
    [
        ({}, 1),
        ({"devices": 2}, 2),
        ({"devices": [0, 3, 5]}, 3),
        ({"devices": "auto"}, 1),
        ({"devices": 2, "num_nodes": 4}, 8),
    ],
)
def test_a_process_is_wanted_for_each_device_of_each_machine(trainer, wanted):
    assert wanted_processes(_config(**trainer)) == wanted


def test_slurm_s_processes_are_recognised(monkeypatch):
    slurm = {
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_JOB_NAME": "medexp",
        "SLURM_JOB_ID": "1234",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_NODELIST": "node[07-08]",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    place = launched_place(4)
    assert place is not None
    assert (place.rank, place.world_size, place.local_rank, place.node_rank) == (3, 4, 1, 1)
    assert (place.address, place.launcher) == ("node07", "Slurm")
    assert launched_place(1) is None
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UsageError, match=r"Slurm: .*ntasks-per-node=4"):
        launched_place(4)


def test_a_batch_script_of_slurm_that_starts_one_process_is_no_launcher(monkeypatch):
    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "medexp", "SLURM_PROCID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert launched_place(2) is None


def test_a_launcher_with_another_number_of_processes_is_refused(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=r"torchrun started 3 processes, but trainer.devices times .* is 2"):
        Processes.of(_config(devices=2), device="cpu")


def test_several_machines_need_a_launcher():
    with pytest.raises(UsageError, match="num_nodes=2 needs a process on each machine"):
        Processes.of(_config(num_nodes=2), device="cpu")


def test_the_evidence_of_one_process_stays_as_it_is():
    rows = [EvidenceRow(case_id=name, group=name, metric="dice", label="organ", value=1.0) for name in "ba"]
    assert joined_evidence(rows) is rows
