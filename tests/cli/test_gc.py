from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medexp.cli.main import main
from medexp.core.files import write_json
from medexp.core.hashing import hash_file
from medexp.core.record import Record, RunFolder, Status, run_folder

RUNS, CACHE = Path("runs"), Path("cache")
Make = Callable[..., RunFolder]


@pytest.fixture
def run(here: Path) -> Make:
    """Makes a run with checkpoints of steps 1, 2, ... and, if asked for, a best one."""

    def make(*, status: Status = Status.FINISHED, n_last: int = 3, best: bool = False, seed: int = 0) -> RunFolder:
        folder = run_folder(RUNS, "first", {"seed": str(seed)})
        folder.checkpoints.mkdir(parents=True)
        folder.write(Record(study="first", axes={"seed": str(seed)}, status=status))
        index: dict[str, dict[str, Any]] = {}
        for step in range(1, n_last + 1):
            file = folder.checkpoints / f"step{step}.ckpt"
            file.write_bytes(bytes([step]) * 1000)
            index[file.name] = {"role": "last", "step": step, "batch": step, "sha256": hash_file(file)}
        if best:
            file = folder.checkpoints / "best-step1.ckpt"
            file.write_bytes(b"best")
            index[file.name] = {"role": "best", "step": 1, "batch": 1, "sha256": hash_file(file)}
        write_json(folder.checkpoints / "index.json", index)
        return folder

    return make


def _gc(*words: str) -> int:
    return main(["gc", "--cache", str(CACHE), *words])


def _checkpoints(folder: RunFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.glob("*.ckpt"))


def _left_by_a_killed_writer(path: Path, *, hours_old: float = 2.0, folder: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        path.mkdir()
        (path / "pixels.npy").write_bytes(b"x" * 100)
        _age(path / "pixels.npy", hours_old)
    else:
        path.write_bytes(b"half")
    _age(path, hours_old)
    return path


def _age(path: Path, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_without_yes_nothing_goes_and_all_that_would_is_listed_with_its_size(
    run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(n_last=3)
    assert _gc() == 0
    first, second, total = capsys.readouterr().out.splitlines()
    assert "step2.ckpt" in first
    assert "step1.ckpt" in second
    assert first.split()[:2] == ["1.0", "kB"]
    assert total == "2 items, 2.0 kB would go; the same command with --yes removes them"
    assert _checkpoints(folder) == ["step1.ckpt", "step2.ckpt", "step3.ckpt"]


def test_with_yes_the_newest_and_the_best_checkpoint_stay(run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(n_last=3, best=True)
    assert _gc("--yes") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "removed 2 items, 2.0 kB"
    assert _checkpoints(folder) == ["best-step1.ckpt", "step3.ckpt"]
    assert _gc("--yes") == 0
    assert capsys.readouterr().out == "nothing to remove\n"


def test_what_stays_is_still_known_to_the_engine(run: Make) -> None:
    from medexp.engine.checkpoints import CheckpointFolder

    folder = run(n_last=3, best=True)
    _gc("--yes")
    checkpoints = CheckpointFolder(folder.checkpoints)
    assert checkpoints.newest() == folder.checkpoints / "step3.ckpt"
    assert checkpoints.best() == folder.checkpoints / "best-step1.ckpt"
    assert checkpoints.index().keys() == {"step3.ckpt", "best-step1.ckpt"}


@pytest.mark.parametrize(
    ("keep", "left"), [(0, []), (2, ["step2.ckpt", "step3.ckpt"]), (9, ["step1.ckpt", "step2.ckpt", "step3.ckpt"])]
)
def test_as_many_stay_as_are_asked_for(run: Make, keep: int, left: list[str]) -> None:
    folder = run(n_last=3)
    _gc("--yes", "--keep", str(keep))
    assert _checkpoints(folder) == left


def test_a_damaged_newest_checkpoint_does_not_count(run: Make) -> None:
    folder = run(n_last=3)
    (folder.checkpoints / "step3.ckpt").write_bytes(b"damaged")
    _gc("--yes")
    assert _checkpoints(folder) == ["step2.ckpt"]


def test_where_no_checkpoint_is_intact_all_stay(run: Make) -> None:
    folder = run(n_last=2)
    for name in _checkpoints(folder):
        (folder.checkpoints / name).write_bytes(b"damaged")
    _gc("--yes")
    assert _checkpoints(folder) == ["step1.ckpt", "step2.ckpt"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.KILLED, Status.RUNNING])
def test_checkpoints_of_a_run_that_may_be_resumed_stay(run: Make, status: Status) -> None:
    folder = run(status=status)
    _gc("--yes")
    assert len(_checkpoints(folder)) == 3


def test_a_checkpoint_that_was_never_completed_goes(run: Make) -> None:
    folder = run(status=Status.KILLED, n_last=1)
    (folder.checkpoints / "step9.ckpt").write_bytes(b"not in the index")
    _gc("--yes")
    assert _checkpoints(folder) == ["step1.ckpt"]


def test_without_an_index_no_checkpoint_goes(run: Make) -> None:
    folder = run()
    (folder.checkpoints / "index.json").unlink()
    _gc("--yes")
    assert len(_checkpoints(folder)) == 3


def test_a_damaged_index_or_record_is_left_alone_and_told(run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = run(seed=0), run(seed=1), run(seed=2)
    (first.checkpoints / "index.json").write_text("{")
    (second.path / "run.json").write_text("{")
    assert _gc("--yes") == 0
    assert [len(_checkpoints(folder)) for folder in (first, second, third)] == [3, 3, 1]
    told = capsys.readouterr()
    assert told.err.count("left alone: ") == 2


def test_a_run_that_is_being_written_is_left_alone(run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    held, free = run(seed=0), run(seed=1)
    half = _left_by_a_killed_writer(held.path / ".run.json.abc12_3x")
    with held.lock():
        _gc()
        assert "seed=0" not in capsys.readouterr().out
        _gc("--yes")
    assert (len(_checkpoints(held)), len(_checkpoints(free)), half.exists()) == (3, 1, True)


def test_leftovers_of_killed_writers_go_after_an_hour(run: Make) -> None:
    folder = run(status=Status.KILLED, n_last=1)
    old = [
        _left_by_a_killed_writer(folder.path / ".run.json.abc12_3x"),
        _left_by_a_killed_writer(folder.checkpoints / ".step2.ckpt.k0qx7z_a"),
        _left_by_a_killed_writer(RUNS / "first" / ".study.json.abcdefgh"),
        _left_by_a_killed_writer(CACHE / "prepared" / "ab" / ".ab12.k0qx7z_a", folder=True),
    ]
    young = _left_by_a_killed_writer(folder.path / ".run.json.zzzzzzzz", hours_old=0.5)
    written = _left_by_a_killed_writer(CACHE / "prepared" / "ab" / ".cd34.k0qx7z_a", folder=True)
    _age(written / "pixels.npy", 0.1)
    _gc("--yes")
    assert [path.exists() for path in old] == [False] * 4
    assert young.exists()
    assert written.exists()


def test_locks_and_finished_files_are_no_leftovers(run: Make) -> None:
    folder = run(n_last=1)
    with folder.lock():
        pass
    for path in (folder.path / ".lock", RUNS / "first" / ".study.lock", folder.path / "log.txt"):
        path.touch()
        _age(path, 100)
    before = sorted(RUNS.rglob("*"))
    _gc("--yes")
    assert sorted(RUNS.rglob("*")) == before


def test_runs_that_were_set_aside_go_only_when_asked_for(run: Make) -> None:
    folder = run(n_last=3)
    aside = folder.path.with_name(f"{folder.path.name}.before-2026-01-01T000000+0000")
    folder.path.rename(aside)
    _gc("--yes")
    assert len(list((aside / "checkpoints").glob("*.ckpt"))) == 3
    _gc("--yes", "--set-aside")
    assert list((RUNS / "first").iterdir()) == []


def test_prepared_cases_go_only_when_asked_for_and_not_used_for_so_long(here: Path) -> None:
    old = CACHE / "prepared" / "ab" / "old"
    read = CACHE / "prepared" / "ab" / "read"
    for folder in (old, read):
        folder.mkdir(parents=True)
        (folder / "pixels.npy").write_bytes(b"x" * 100)
        _age(folder / "pixels.npy", 24 * 10)
        _age(folder, 24 * 10)
    status = (read / "pixels.npy").stat()
    os.utime(read / "pixels.npy", (time.time() - 3600, status.st_mtime))
    _gc("--yes")
    assert old.exists()
    _gc("--yes", "--cache-days", "11")
    assert old.exists()
    _gc("--yes", "--cache-days", "9")
    assert (old.exists(), read.exists()) == (False, True)
    assert list(old.parent.iterdir()) == [read]


def test_one_study_is_cleaned_where_it_is_named(run: Make) -> None:
    folder = run()
    other = RUNS / "second"
    (RUNS / "first").rename(other)
    (RUNS / "third").mkdir()
    assert _gc("third", "--yes") == 0
    assert len(list(other.rglob("*.ckpt"))) == 3
    assert _gc("second", "--yes") == 0
    assert len(list(other.rglob("*.ckpt"))) == 1
    assert not folder.exists


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--keep", "-1"], "--keep needs"),
        (["--cache-days", "0"], "--cache-days needs"),
        (["nosuch"], "no study nosuch"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    words: list[str], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _gc(*words) == 2
    assert told in capsys.readouterr().err


def test_where_there_is_nothing_it_says_so(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _gc("--yes", "--set-aside", "--cache-days", "1") == 0
    assert capsys.readouterr().out == "nothing to remove\n"
