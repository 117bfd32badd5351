"""The runs of a study share the cache: each case is prepared once, whichever run comes first."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest
from tiny import train_tiny

from medexp.core.record import Status
from medexp.data.preprocessing import Preprocessing

_RUNS = [("loss=dice", "seed=0"), ("loss=dice", "seed=1"), ("loss=focal", "seed=0"), ("loss=focal", "seed=1")]
_QUICK = ("study=shared", "trainer.max_steps=1", "trainer.steps_per_epoch=1")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File with a line for each preparation of a case, of whatever process."""
    log = tmp_path / "prepared"
    original = Preprocessing.__call__

    def noted(self, image):
        with log.open("a") as stream:
            stream.write(f"{image.case.case_id}\n")
        return original(self, image)

    monkeypatch.setattr(Preprocessing, "__call__", noted)
    return log


def test_four_runs_of_a_study_prepare_each_case_once(tmp_path: Path, prepared: Path) -> None:
    for given in _RUNS:
        run = train_tiny(tmp_path / "runs", *_QUICK, *given)
        assert run.record.status is Status.FINISHED
    lines = prepared.read_text().split()
    assert len(lines) == len(set(lines)) == 8


def test_two_runs_that_start_at_once_prepare_each_case_once(tmp_path: Path, prepared: Path) -> None:
    # The images themselves are drawn before, so that both come to the cache together.
    train_tiny(tmp_path / "first", *_QUICK, "dataset.preprocessing.orient=true")
    prepared.unlink()

    def train(number: int) -> None:
        train_tiny(tmp_path / "runs", *_QUICK, *_RUNS[number])
        os._exit(0)

    context = multiprocessing.get_context("fork")
    started = [context.Process(target=train, args=(number,)) for number in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 2
    lines = prepared.read_text().split()
    assert len(lines) == len(set(lines)) == 8
