"""`medexp wandb sync`, with wandb itself and a local server in place of the service."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from wandb_server import WandbServer

from medexp.cli.main import main
from medexp.core.record import Record, RunFolder, Status, run_folder
from medexp.core.wandb_artifacts import RUN_TYPE, run_artifact
from medexp.engine.wandb_report import log_report
from medexp.engine.wandb_session import Session, logged_files, open_run

RUNS = Path("runs")
# What wandb has written of a run when it is opened; the rest follows in blocks.
_HEADER_BYTES = 7


def _run(seed: int = 0) -> RunFolder:
    folder = run_folder(RUNS, "first", {"seed": str(seed)})
    folder.path.mkdir(parents=True)
    folder.write(Record(study="first", axes={"seed": str(seed)}, status=Status.FINISHED))
    return folder


def _track(folder: Path, run_id: str, epochs: Sequence[int]) -> Path:
    """Track a part of a run offline; gives wandb's file."""
    session = Session(
        project="lesions", entity=None, folder=folder.resolve(), group="first", job_type="train", name="a run", tags=(),
        config={"lr": 0.1}, id=run_id, system_metrics=False, timeout_s=20.0,
    )  # fmt: skip
    run = open_run(session, "offline")
    for epoch in epochs:
        run.log({"epoch": epoch, "loss": 1 / (1 + epoch)})
    with logged_files(run, run_artifact(run_id), {"run.json": b"{}"}, type=RUN_TYPE, metadata={}):
        run.finish()
    return Path(run.dir).parent / f"run-{run_id}.wandb"


def _epochs(server: WandbServer, run_id: str) -> list[int]:
    return [line["epoch"] for line in server.runs[run_id].lines]


def test_the_parts_of_an_interrupted_run_arrive_in_one_run_in_order_and_once(
    here: Path, wandb_server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run = _run()
    killed_at_once = _track(run.path, "aaaa1111", [])
    killed_later = _track(run.path, "aaaa1111", range(50))
    _track(run.path, "aaaa1111", [1000, 1001])
    os.truncate(killed_at_once, _HEADER_BYTES)
    os.truncate(killed_later, killed_later.stat().st_size * 2 // 3)
    assert main(["wandb", "sync", "first"]) == 0
    assert f"{killed_at_once.parent.name} holds nothing" in capsys.readouterr().out
    assert list(wandb_server.runs) == ["aaaa1111"]
    *before, last_but_one, last = _epochs(wandb_server, "aaaa1111")
    assert len(before) > 5
    assert before == list(range(len(before)))
    assert (last_but_one, last) == (1000, 1001)
    assert wandb_server.runs["aaaa1111"].group == "first"
    (artifact,) = wandb_server.artifacts
    assert artifact.named_files() == {"run.json": b"{}"}
    assert str(here).encode() not in b"\0".join(wandb_server.received)

    asked = len(wandb_server.received)
    capsys.readouterr()
    assert main(["wandb", "sync", "first"]) == 0
    assert capsys.readouterr().out == "nothing to send\n"
    assert len(wandb_server.received) == asked


def test_a_run_that_is_refused_is_told_with_its_reason_and_sent_by_the_next_call(
    here: Path, wandb_server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    _track(_run().path, "aaaa1111", [0, 1])
    log_report(
        [], {"ranks": pd.DataFrame({"rank": [1, 2]})}, study="first", project="lesions", entity=None,
        folder=RUNS / "first", rename={}, mode="offline",
    )  # fmt: skip
    wandb_server.on_stream = lambda run, content: 403 if run == "aaaa1111" else 200
    assert main(["wandb", "sync", "first"]) == 1
    told = capsys.readouterr()
    assert "seed=0: offline-run-" in told.err
    assert "403 Forbidden" in told.err
    assert told.out.startswith("(comparisons): offline-run-")
    (comparison,) = (run for run in wandb_server.runs.values() if run.job_type == "comparison")
    assert any(name.startswith("media/table/ranks") for name in comparison.files)

    wandb_server.on_stream = lambda run, content: 200
    assert main(["wandb", "sync", "first"]) == 0
    assert capsys.readouterr().out.startswith("seed=0: offline-run-")
    assert _epochs(wandb_server, "aaaa1111") == [0, 1]


@pytest.mark.soak
def test_a_sending_that_is_killed_is_made_good_by_the_next_call(here: Path, wandb_server: WandbServer) -> None:
    run = _run()
    _track(run.path, "aaaa1111", [0, 1])
    _track(run.path, "aaaa1111", [2, 3])
    sending: list[subprocess.Popen[bytes]] = []

    def kill_at_second_part(run_id: str, content: dict) -> int:
        if len(wandb_server.runs[run_id].exit_codes) == 1 and sending:
            os.killpg(sending.pop().pid, signal.SIGKILL)
        return 200

    wandb_server.on_stream = kill_at_second_part
    words = [sys.executable, "-m", "medexp.cli.main", "wandb", "sync", "first"]
    path = os.pathsep.join(sys.path)
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(here)}
    with subprocess.Popen(words, env=environment, start_new_session=True) as process:
        sending.append(process)
    assert process.returncode == -signal.SIGKILL
    assert main(["wandb", "sync", "first"]) == 0
    assert _epochs(wandb_server, "aaaa1111") == [0, 1, 2, 3]


def test_what_would_be_sent_is_listed_and_nothing_is_asked_of_the_service(
    here: Path, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = _run(0), _run(1), _run(2)
    for run in (first, second, third):
        folder = run.path / "wandb" / "offline-run-20260101_000000-aaaa1111"
        folder.mkdir(parents=True)
        (folder / "run-aaaa1111.wandb").touch()
    (folder / "run-aaaa1111.wandb.synced").touch()  # as `wandb sync` alone leaves it
    with second.lock():
        assert main(["wandb", "sync", "first", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert told.out == "seed=0: offline-run-20260101_000000-aaaa1111 would be sent\n"
    assert told.err == "seed=1: left out, it is being written\n"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(here))
    assert main(["wandb", "sync", "first"]) == 2
    assert "run `wandb login`" in capsys.readouterr().err
    assert wandb_server.received == []


def test_two_calls_do_not_send_the_same_run(
    here: Path, wandb_server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = _run().path / "wandb" / "offline-run-20260101_000000-aaaa1111"
    folder.mkdir(parents=True)
    (folder / "run-aaaa1111.wandb").touch()
    with FileLock(folder.parent / ".sync.lock"):
        assert main(["wandb", "sync", "first"]) == 1
    assert "is being sent by another process" in capsys.readouterr().err
    assert wandb_server.received == []
