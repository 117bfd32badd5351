"""A run that is stopped anywhere and resumed ends bitwise equal to one that was never stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import RecordError
from medexp.core.record import RunFolder, Status
from medexp.engine.checkpoints import CheckpointFolder, load_checkpoint
from medexp.engine.run import Run

_HARD = (
    "model.dropout=0.2",
    "augmentation=light",
    "callbacks=[progress,ema,augmentation_log]",
    "callbacks.ema.decay=0.7",
    "trainer.accumulate=2",
    "trainer.max_epochs=3",
    "trainer.checkpoints.every_steps=1",
    "trainer.checkpoints.keep_last=100",
)
_WITHOUT_EMA = [item for item in _HARD if not item.startswith("callbacks")]


def _last(run: Run) -> dict[str, Any]:
    newest = CheckpointFolder(run.folder.checkpoints).newest()
    assert newest is not None
    checkpoint = load_checkpoint(newest)
    # The step axis of Lightning's own loggers, which are not used; after a resume it may be one ahead.
    del checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]["_batches_that_stepped"]
    return checkpoint


def _unequal(one: Any, other: Any, key: str = "") -> list[str]:
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [key]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [found for name in one for found in _unequal(one[name], other[name], f"{key}/{name}")]
    if isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        return [found for i, pair in enumerate(zip(one, other, strict=True)) for found in _unequal(*pair, f"{key}/{i}")]
    return [] if one == other else [f"{key}: {one} {other}"]


def _assert_bitwise_equal(run: Run, other: Run) -> None:
    assert _unequal(_last(run), _last(other)) == []
    for name in ("steps.jsonl", "history.csv", "evidence.csv"):
        assert (run.path / name).read_bytes() == (other.path / name).read_bytes(), name
    if "augmentation_log" in run.config.callbacks:
        assert _drawn(run) == _drawn(other)


def _drawn(run: Run) -> bytes:
    return (run.path / "augmentation.jsonl").read_bytes()


def _killed_after(run: Run, name: str, runs: Path) -> Path:
    """A copy of a run as a kill right after one of its checkpoints would have left it."""
    study = run.path.parent
    shutil.copytree(study, runs / study.name)
    folder = RunFolder(runs / study.name / run.path.name)
    index = CheckpointFolder(folder.checkpoints).index()
    kept = {key: entry for key, entry in index.items() if entry["batch"] <= index[name]["batch"]}
    for later in index.keys() - kept.keys():
        (folder.checkpoints / later).unlink()
    (folder.checkpoints / "index.json").write_text(json.dumps(kept))
    record = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(record | {"status": "running"}))
    folder.evidence.unlink()
    return runs


@pytest.mark.parametrize(
    ("more", "each"),
    [
        pytest.param(("trainer.validate_every_epochs=1",), 1, marks=pytest.mark.soak),
        (("trainer.validate_every_epochs=1",), 4),
        (("trainer.validate_every_epochs=2", "dataset.workers=2"), 4),
        (("trainer.max_epochs=2", "callbacks=progress"), 4),
        (("trainer.max_steps=8",), 4),
    ],
    ids=["every one", "validation", "workers", "plain", "ends within an epoch"],
)
def test_resume_from_every_or_each_fourth_checkpoint_is_bitwise_equal(
    tmp_path: Path, more: tuple[str, ...], each: int
) -> None:
    given = {item.partition("=")[0] for item in more}
    hard = [item for item in _HARD if item.partition("=")[0] not in given]
    if "callbacks=progress" in more:
        hard.remove("callbacks.ema.decay=0.7")
    full = train_tiny(tmp_path / "full", *hard, *more)
    names = list(CheckpointFolder(full.folder.checkpoints).index())
    assert len(names) >= 6
    for name in names[:-1:each]:
        runs = _killed_after(full, name, tmp_path / name)
        resumed = train_tiny(runs, *hard, *more)
        _assert_bitwise_equal(full, resumed)


def test_a_finished_run_that_gets_more_steps_goes_on_where_its_epoch_was_cut_short(tmp_path: Path) -> None:
    knobs = ("scheduler=constant", "trainer.steps_per_epoch=4", "study=s")
    full = train_tiny(tmp_path / "full", *knobs, "trainer.max_steps=6")
    folder = train_tiny(tmp_path / "runs", *knobs, "trainer.max_steps=3").path
    config = medexp.compose(None, tiny(tmp_path / "runs", *knobs, "trainer.max_steps=6", "on_change=resume"))
    config.axes = json.loads((folder / "run.json").read_text())["axes"]
    longer = medexp.train(config)
    assert longer.path == folder
    # One line a step: what was trained before stands there once.
    assert (longer.path / "steps.jsonl").read_bytes() == (full.path / "steps.jsonl").read_bytes()
    weights, expected = _last(longer)["state_dict"], _last(full)["state_dict"]
    assert _unequal(weights, expected) == []


@pytest.mark.parametrize(
    ("more", "step"),
    [
        (
            (
                "optimizer=schedule_free",
                "scheduler=plateau",
                "scheduler.warmup_steps=2",
                "scheduler.patience=0",
                "scheduler.min_gain=1.0",
                "trainer.validate_every_epochs=1",
            ),
            6,
        ),
        (("optimizer=sgd_layer_wise", "scheduler=one_cycle"), 4),
    ],
    ids=["schedule-free and plateau, between epochs", "groups and one-cycle, within an epoch"],
)
def test_optimisers_and_schedules_with_a_state_of_their_own_resume_bitwise(
    tmp_path: Path, more: tuple[str, ...], step: int
) -> None:
    full = train_tiny(tmp_path / "full", *_WITHOUT_EMA, *more)
    names = list(CheckpointFolder(full.folder.checkpoints).index())
    assert len(names) == 9
    resumed = train_tiny(_killed_after(full, names[step - 1], tmp_path / "cut"), *_WITHOUT_EMA, *more)
    _assert_bitwise_equal(full, resumed)


def test_two_runs_are_bitwise_equal_whatever_the_workers(tmp_path: Path) -> None:
    runs = [train_tiny(tmp_path / str(n), *_HARD, f"dataset.workers={n}") for n in (0, 2)]
    _assert_bitwise_equal(*runs)


def test_seed_zero_is_a_seed_and_another_seed_gives_another_run(tmp_path: Path) -> None:
    zero, again, one = (
        train_tiny(tmp_path / name, "trainer.max_epochs=1", f"seed={seed}")
        for name, seed in (("zero", 0), ("again", 0), ("one", 1))
    )
    _assert_bitwise_equal(zero, again)
    assert zero.record.fingerprint["initial_weights"] != one.record.fingerprint["initial_weights"]
    assert zero.record.fingerprint["data_order"] != one.record.fingerprint["data_order"]


def _start(runs: Path, *overrides: str) -> subprocess.Popen[bytes]:
    words = ["train", *tiny(runs, *overrides)]
    return subprocess.Popen([sys.executable, "-m", "medexp.cli.main", *words], stdout=subprocess.DEVNULL)


def _wait_for_checkpoint(runs: Path, *, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(runs.glob("*/*/checkpoints/index.json")):
            return
        time.sleep(0.02)
    raise AssertionError("no checkpoint was written")


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.soak) for number in (signal.SIGTERM, signal.SIGINT))],
)
def test_a_stopped_process_is_told_and_resumes_bitwise_equal(tmp_path: Path, number: signal.Signals) -> None:
    hard = [*_HARD, "trainer.validate_every_epochs=1", "dataset.workers=1"]
    hard[hard.index("trainer.max_epochs=3")] = "trainer.max_epochs=6"
    hard[hard.index("trainer.checkpoints.keep_last=100")] = "trainer.checkpoints.keep_last=1"
    process = _start(tmp_path / "runs", *hard)
    _wait_for_checkpoint(tmp_path / "runs", process=process)
    os.kill(process.pid, number)
    code = process.wait(timeout=60)
    assert code == (-signal.SIGKILL if number is signal.SIGKILL else 1)
    (path,) = (item.parent for item in (tmp_path / "runs").glob("*/*/run.json"))
    stopped = medexp.load_run(path)
    assert stopped.record.status is Status.KILLED
    resumed = train_tiny(tmp_path / "runs", *hard)
    assert resumed.record.status is Status.FINISHED
    _assert_bitwise_equal(train_tiny(tmp_path / "undisturbed", *hard), resumed)


def test_resume_with_a_changed_configuration_is_refused_with_the_list(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "runs", "trainer.max_epochs=1")
    config = medexp.compose(None, tiny(tmp_path / "runs", "trainer.max_epochs=1"))
    config.optimizer.lr = 0.5
    with pytest.raises(RecordError, match=r"optimizer\.lr: 0\.001 -> 0\.5"):
        medexp.train(config)
    assert run.record.status is Status.FINISHED


def test_on_change_new_keeps_the_old_run_and_resume_goes_on(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    old = train_tiny(runs, "trainer.max_epochs=1")
    before = old.folder.evidence.read_bytes()
    config = medexp.compose(None, tiny(runs, "trainer.max_epochs=1"))
    config.optimizer.lr = 0.5
    config.on_change = "new"
    new = medexp.train(config)
    (kept,) = new.path.parent.glob("*.before-*")
    assert (kept / "evidence.csv").read_bytes() == before
    assert len(new.history) == 1
    longer = medexp.compose(None, tiny(runs, "trainer.max_epochs=1"))
    longer.optimizer.lr, longer.trainer.max_epochs, longer.on_change = 0.5, 2, "resume"
    resumed = medexp.train(longer)
    assert list(resumed.history["epoch"]) == [0, 1]
    assert "trainer.max_epochs: 1 -> 2" in resumed.record.notes[0]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    full = train_tiny(tmp_path / "full", *_HARD)
    names = list(CheckpointFolder(full.folder.checkpoints).index())
    runs = _killed_after(full, names[3], tmp_path / "cut")
    damaged = next(runs.glob(f"*/*/checkpoints/{names[3]}"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    resumed = train_tiny(runs, *_HARD)
    assert f"resuming from {names[2]}" in resumed.folder.log.read_text()
    _assert_bitwise_equal(full, resumed)


def test_a_finished_run_is_found_and_not_repeated(tmp_path: Path) -> None:
    first = train_tiny(tmp_path / "runs", "trainer.max_epochs=1")
    ended = first.record.ended
    checkpoint = CheckpointFolder(first.folder.checkpoints).newest()
    assert checkpoint is not None
    written = checkpoint.stat().st_mtime_ns
    second = train_tiny(tmp_path / "runs", "trainer.max_epochs=1")
    assert (second.record.ended, checkpoint.stat().st_mtime_ns) == (ended, written)
    assert "nothing to do" in second.folder.log.read_text()


def test_a_run_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "runs", "trainer.max_epochs=1")
    holder = (
        "import sys,time,pathlib; from medexp.core.record import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).lock():\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder, str(run.path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    try:
        with pytest.raises(RecordError, match="another process"):
            train_tiny(tmp_path / "runs", "trainer.max_epochs=1")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
