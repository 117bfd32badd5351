from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from medexp.core.errors import RecordError, UsageError
from medexp.core.record import SCHEMA_VERSION, Record, RunFolder, Status, axes_name, changes, run_folder

HOLDS_THE_LOCK = """
import sys, time
from pathlib import Path
from medexp.core.record import RunFolder

with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "study" / "seed=0")


@pytest.fixture
def holder(folder):
    """Another process that holds the folder for writing."""
    command = [sys.executable, "-c", HOLDS_THE_LOCK, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def record(**changed) -> Record:
    return replace(Record(study="study", axes={"seed": "0"}), **changed)


def test_a_record_is_read_back_as_it_was_written(folder):
    written = record(status=Status.FINISHED, results={"dice": {"liver": 0.9, "mean": None}}, seconds={"training": 1.5})
    folder.write(written)
    assert folder.exists
    assert folder.read() == written
    assert json.loads((folder.path / "run.json").read_text())["status"] == "finished"


def test_keys_of_a_later_medexp_do_not_hinder_reading(folder):
    folder.write(record(status=Status.FINISHED))
    stored = json.loads((folder.path / "run.json").read_text())
    (folder.path / "run.json").write_text(json.dumps(stored | {"carbon_g": 3}))
    assert folder.read() == record(status=Status.FINISHED)


@pytest.mark.parametrize("status", list(Status))
def test_only_a_running_record_that_nobody_holds_is_told_as_killed(folder, status):
    folder.write(record(status=status))
    assert folder.read().status is (Status.KILLED if status is Status.RUNNING else status)
    with folder.lock():
        assert folder.read().status is status


def test_a_folder_that_another_process_writes_is_refused_and_reads_as_running(folder, holder):
    folder.write(record())
    assert folder.is_locked()
    assert folder.read().status is Status.RUNNING
    with pytest.raises(RecordError, match="is being written by another process"), folder.lock():
        pass


def test_a_killed_process_frees_the_folder(folder, holder):
    folder.write(record())
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert folder.read().status is Status.KILLED
    with folder.lock():
        assert folder.is_locked()
    assert not folder.is_locked()


def test_asking_for_the_lock_leaves_no_trace(folder):
    folder.write(record())
    assert not folder.is_locked()
    assert [path.name for path in folder.path.iterdir()] == ["run.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_run_that_may_only_be_read_keeps_its_recorded_status(folder):
    folder.write(record())
    with folder.lock():
        pass
    (folder.path / ".lock").chmod(0o444)
    folder.path.chmod(0o555)
    try:
        assert folder.read().status in (Status.RUNNING, Status.KILLED)
    finally:
        folder.path.chmod(0o755)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run record"),
        (b'{"study": ', "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[]", "is damaged"),
        (b"{}", "has schema version None"),
        (json.dumps(asdict(record()) | {"schema_version": SCHEMA_VERSION + 1}).encode(), "this medexp reads"),
    ],
)
def test_a_record_that_cannot_be_read_is_told_by_its_file(folder, content, message):
    folder.path.mkdir(parents=True)
    if content is not None:
        (folder.path / "run.json").write_bytes(content)
    with pytest.raises(RecordError, match=message) as raised:
        folder.read()
    assert str(folder.path) in str(raised.value)


def test_the_name_does_not_depend_on_the_order_of_the_overrides():
    assert axes_name({"seed": "1", "fold": "0"}) == axes_name({"fold": "0", "seed": "1"}) == "fold=0,seed=1"
    assert axes_name({}) == "default"


@pytest.mark.parametrize("value", ["../../etc", "a/b", "a=b", "x\\y", "50%", "µ", "{a: 1}", "a,b=2", "\n"])
def test_values_with_signs_of_their_own_stay_one_folder_below_the_study(tmp_path, value):
    folder = run_folder(tmp_path, "study", {"a": value, "seed": "1"}).path
    assert folder.parent == tmp_path / "study"
    assert folder.name.startswith("a=")
    assert folder.name.count("=") == 2
    folder.mkdir(parents=True)
    assert folder.is_dir()


def test_keys_with_a_slash_stay_one_folder_too(tmp_path):
    assert run_folder(tmp_path, "study", {"dataset/split": "kfold"}).path.parent == tmp_path / "study"


@pytest.mark.parametrize("study", ["", ".", ".."])
def test_a_study_needs_a_name(tmp_path, study):
    with pytest.raises(UsageError, match="study needs a name"):
        run_folder(tmp_path, study, {})


def test_a_study_with_a_slash_stays_below_the_runs(tmp_path):
    assert run_folder(tmp_path, "../mine", {}).path.parent.parent == tmp_path


def test_different_axes_have_different_names():
    axes = [
        {"a": "1,b=2"},
        {"a": "1", "b": "2"},
        {"a": "1%2Cb"},
        {"a": "1,b"},
        {"a": "1", "b": ""},
        {},
        {"a": "default"},
    ]
    assert len({axes_name(one) for one in axes}) == len(axes)


def test_long_names_fit_a_file_system_and_stay_different(tmp_path):
    common = {f"model.channels[{index}]": "1234567890" for index in range(20)}
    names = {axes_name({**common, "seed": str(seed)}) for seed in range(20)}
    assert len(names) == 20
    for name in names:
        assert len(name.encode()) <= 255
        (tmp_path / name).mkdir()


def test_a_name_that_just_fits_is_not_shortened():
    name = axes_name({"a": "x" * 178})
    assert name == "a=" + "x" * 178
    assert axes_name({"a": "x" * 179}) != name + "x"


def test_changes_list_the_configuration_leaf_by_leaf_and_then_the_rest():
    old = record(fingerprint={"config": "1", "data": "2", "commit": "c"})
    new = record(fingerprint={"config": "9", "data": "3"})
    found = changes(
        old,
        {"optimizer": {"lr": 0.1}, "paths": {"runs": "here"}, "study": "a"},
        new,
        {"optimizer": {"lr": 0.2}, "paths": {"runs": "there"}, "study": "b"},
    )
    assert found == ["optimizer.lr: 0.1 -> 0.2", "data: 2 -> 3"]
    assert changes(old, {"a": 1}, record(fingerprint={"config": "1", "data": "2"}), {"a": 1}) == []


def test_paths_of_a_record_lie_in_its_folder(folder):
    names = ["config", "evidence", "cases", "steps", "history", "checkpoints", "overlays", "predictions", "log"]
    found = {getattr(folder, name) for name in names}
    assert len(found) == len(names)
    assert all(isinstance(path, Path) and path.parent == folder.path for path in found)
