"""Runs with wandb itself, kept offline; what it wrote is read by wandb's own inspector."""

from __future__ import annotations

import gc
import getpass
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny import tiny, train_tiny

import medexp
from medexp.cli.main import main
from medexp.core.errors import MedexpError, UsageError
from medexp.core.record import Status
from medexp.engine.overlays import ShownSlice
from medexp.engine.run import Run
from medexp.engine.tracking import Picture
from medexp.engine.wandb_session import resolved_mode
from medexp.engine.wandb_tracker import WandbTracker, _masks

_TRACKED = ("tracking=wandb", "tracking.tracker.system_metrics=false", "tracking.every_steps=2", "overlays=1")
_CALM = ("trainer.max_epochs=2", "overlays=1", "study=s")
_KNOBS: dict[str, Any] = {
    "project": "medexp", "entity": None, "mode": "auto", "tags": (), "system_metrics": False, "timeout_s": 5.0,
}  # fmt: skip


def _go_offline(patch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY"):
        patch.delenv(name, raising=False)
    patch.setenv("WANDB_MODE", "offline")


@pytest.fixture(autouse=True)
def _offline(fresh_wandb: None, monkeypatch: pytest.MonkeyPatch) -> None:
    _go_offline(monkeypatch)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of two epochs with a picture."""
    with pytest.MonkeyPatch.context() as patch:
        _go_offline(patch)
        knobs = ("trainer.max_epochs=2", "trainer.validate_every_epochs=1")
        return train_tiny(tmp_path_factory.mktemp("tracked") / "runs", *_TRACKED, *knobs)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is not tracked."""
    return train_tiny(tmp_path_factory.mktemp("calm") / "runs", *_CALM, "tracking=off")


def _records(run: Path, number: int = -1) -> list[dict]:
    """What wandb wrote of a run, as `wandb leet inspect` reads it."""
    folder = sorted((run / "wandb").glob("offline-run-*"))[number]
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _of(records: list[dict], kind: str) -> list[dict]:
    return [record[kind] for record in records if record["type"] == kind]


def _table(run: Path, name: str) -> pd.DataFrame:
    (file,) = (run / "wandb").glob(f"offline-run-*/files/media/table/{name}_*.json")
    table = json.loads(file.read_text())
    return pd.DataFrame(table["data"], columns=table["columns"])


def test_a_run_is_told_with_its_study_axes_figures_tables_and_exit_code(tracked: Run) -> None:
    run = tracked
    records = _records(run.path)
    (told,) = _of(records, "run")
    assert told["run_id"] == run.record.wandb_id
    assert (told["run_group"], told["job_type"]) == (run.record.study, "train")
    assert {"semantic", "phantom_2d", "unet", "dice_ce"} <= set(told["tags"])
    assert "metrics=dice" in told["display_name"]
    assert told["config"]["update"]["optimizer"]["lr"] == run.config.optimizer.lr
    epochs = [item["item"] for item in _of(records, "history") if "train/loss" in item["item"]]
    assert [item["epoch"] for item in epochs] == [0, 1]
    assert np.allclose([item["train/loss"] for item in epochs], run.history["train/loss"])
    assert np.allclose([item["val/dice/organ"] for item in epochs], run.history["val/dice/organ"])
    steps = [item["item"]["step"] for item in _of(records, "history") if "batch/loss" in item["item"]]
    assert steps == list(range(2, int(run.history["step"].iloc[-1]) + 1, 2))
    assert _of(records, "exit")[0].get("exit_code", 0) == 0
    cases = _table(run.path, "cases")
    assert np.allclose(cases["dice/organ"].astype(float), run.cases["dice/organ"], equal_nan=True)
    assert set(cases["case_id"]).isdisjoint(run.cases["case_id"])
    parameters = sum(weights.numel() for weights in run.module().model.parameters())
    assert _table(run.path, "model")["parameters"].iloc[0] == parameters


def test_pictures_of_a_public_dataset_have_layers_of_classes(tracked: Run) -> None:
    files = list((tracked.path / "wandb").glob("offline-run-*/files/media/images/**/*.png"))
    assert len([file for file in files if file.name.endswith(".mask.png")]) == 3
    assert len(files) == 4
    labels = json.dumps(_of(_records(tracked.path), "config"))
    assert '"1": "organ", "2": "lesion"' in labels
    assert '"1": "false positive", "2": "false negative", "3": "other class"' in labels


def test_pictures_of_wide_voxels_have_square_pixels_in_all_layers() -> None:
    rows = np.array([[1, 0, 2], [0, 3, 1]], dtype=np.uint8)
    shown = ShownSlice(rows / 3, None, rows, rows, (2.5, 1.0), ("a", "b", "c"))
    layers = _masks(Picture("case", 0, rows, shown), {1: "a", 2: "b", 3: "c"})
    assert set(layers) == {"prediction", "error"}
    for layer in layers.values():
        assert layer["mask_data"].shape == (5, 3)
        assert {tuple(row) for row in layer["mask_data"].tolist()} == {(1, 0, 2), (0, 3, 1)}


def test_a_run_that_goes_on_keeps_its_id(tmp_path: Path) -> None:
    first = train_tiny(tmp_path / "runs", *_TRACKED, "trainer.max_steps=2", "study=one").record.wandb_id
    more = ("trainer.max_steps=2", "study=one", "optimizer.lr=0.5", "on_change=resume")
    folder = tmp_path / "runs" / "one"
    (recorded,) = (item for item in folder.iterdir() if item.is_dir())
    config = medexp.compose(None, tiny(tmp_path / "runs", *_TRACKED, *more))
    config.axes = dict(Run(recorded).record.axes)
    again = medexp.train(config)
    assert again.path == recorded
    assert again.record.wandb_id == first
    assert {_of(_records(recorded, number), "run")[0]["run_id"] for number in (0, 1)} == {first}


def test_a_run_that_fails_is_closed_with_its_exit_code(tmp_path: Path) -> None:
    with pytest.raises(MedexpError, match="the loss is"):
        train_tiny(tmp_path / "runs", *_TRACKED, "optimizer=sgd", "optimizer.lr=1e30", "trainer.max_steps=40")
    (run,) = (path.parent for path in (tmp_path / "runs").rglob("run.json"))
    assert Run(run).record.status is Status.FAILED
    records = _records(run)
    assert _of(records, "exit")[0]["exit_code"] == 1
    told = {key: value for item in _of(records, "summary") for key, value in item.get("update", {}).items()}
    assert told["status"] == "failed"


def test_jobs_of_a_multirun_have_ids_and_configurations_of_their_own(tmp_path: Path) -> None:
    words = tiny(tmp_path / "runs", *_TRACKED, "trainer.max_steps=2", "study=two")
    assert main(["train", "-m", *words, "optimizer.lr=0.1,0.2"]) == 0
    runs = [path.parent for path in (tmp_path / "runs" / "two").rglob("run.json")]
    runs.sort(key=lambda path: Run(path).config.optimizer.lr)
    told = [_of(_records(run), "run")[0] for run in runs]
    assert len({item["run_id"] for item in told}) == 2
    assert [item["config"]["update"]["optimizer"]["lr"] for item in told] == [0.1, 0.2]
    assert [Run(run).record.wandb_id for run in runs] == [item["run_id"] for item in told]
    assert all(len(_table(run, "cases")) == len(Run(run).cases) for run in runs)


def _patients(root: Path) -> None:
    """Three volumes whose folder, file names, ids and headers name patients, and one whose label does not fit it."""
    random = np.random.default_rng(0)
    cases = []
    for number in range(4):
        image = nib.Nifti1Image(random.normal(size=(12, 12, 12)).astype(np.float32), np.eye(4))
        image.header["descrip"] = b"CANARYheader"
        shape = (12, 12, 12 if number < 3 else 11)
        label = nib.Nifti1Image((random.random(shape) < 0.3).astype(np.uint8), np.eye(4))
        name = f"CANARYcase{number}.nii.gz"
        for folder, nifti in (("imagesTr", image), ("labelsTr", label)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nifti, root / folder / name)
        cases.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    content = {
        "name": "liver", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver"},
        "numTraining": 4, "training": cases,
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(content))


def test_nothing_of_patients_and_of_the_machine_is_told(tmp_path: Path) -> None:
    root = tmp_path / "CANARYfolder"
    _patients(root)
    config = medexp.compose(
        None,
        [
            "dataset=msd", f"dataset.root={root}", "dataset.integrity=quarantine",
            "dataset.patch_size=[12,12,12]", "dataset.batch_size=1",
            "dataset.split.n_folds=3", "model.channels=[4,8]", "model.strides=[2]", "model.num_res_units=0",
            "metrics=dice", "precision=32-true", "threads=1", "overlays=1", "save_predictions=true",
            "trainer.max_steps=2", f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}",
            "tracking=wandb",
        ],
    )  # fmt: skip
    run = medexp.train(config)
    assert list(run.folder.overlays.iterdir())
    told = {"the folder": str(tmp_path), "a home": str(Path.home())}
    if len(socket.gethostname()) > 4:  # shorter ones are found in random ids
        told["the host"] = socket.gethostname()
    told |= {"a patient": "CANARY", "the program": sys.executable, "the repository": str(Path(__file__).parents[2])}
    told |= {"the user": f"/{getpass.getuser()}/"}
    files = [path for path in (run.path / "wandb").rglob("*") if path.is_file()]
    assert {"evidence.csv.copy", "run.json.copy", f"run-{run.record.wandb_id}.wandb"} <= {path.name for path in files}
    assert "CANARY" in str(run.record.notes), "a note names the case that was left out"
    found = [
        (path.name, what)
        for path in files
        for what, text in told.items()
        if text.encode() in path.read_bytes() or text in str(path.relative_to(run.path))
    ]
    assert found == []
    assert not list((run.path / "wandb").rglob("*.png"))
    assert len(_table(run.path, "cases")) == len(run.cases) > 0


def _same(one: Run, other: Run) -> None:
    assert one.record.status is other.record.status is Status.FINISHED
    for name in ("history", "evidence", "cases"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name), check_exact=True)
    assert one.results == other.results


def _unreachable(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def _killed(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    told = WandbTracker.log

    def kill_and_log(self, values) -> None:
        for child in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
            for pid in child.read_text().split():
                if "wandb-core" in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(int(pid), signal.SIGKILL)
        told(self, values)

    monkeypatch.setattr(WandbTracker, "log", kill_and_log)


def _no_room(monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    run.mkdir(parents=True)
    (run / "wandb").write_text("a file where wandb wants its folder")


# wandb does not wait for a service that was killed.
@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.parametrize("trouble", [_unreachable, _killed, _no_room])
def test_a_tracker_in_trouble_changes_nothing(
    trouble, calm: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = (*_TRACKED[:-1], *_CALM, "tracking.patience_s=5.0", "tracking.tracker.timeout_s=2.0")
    with monkeypatch.context() as troubles:
        trouble(troubles, tmp_path / "runs" / "s" / calm.path.name)
        troubled = train_tiny(tmp_path / "runs", *tracked)
    gc.collect()
    _same(calm, troubled)
    log = (troubled.path / "log.txt").read_text()
    assert "tracking failed" in log or "kept offline" in log
    later = train_tiny(tmp_path / "later", *_TRACKED[:-1], "overlays=0", "trainer.max_steps=1")
    assert _of(_records(later.path), "exit"), "the next run of this process is not tracked"


def test_without_a_key_a_run_is_offline_and_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolved_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert resolved_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert resolved_mode("auto") == "disabled"


@pytest.mark.parametrize(
    ("knob", "value", "told"),
    [
        ("mode", "on", "tracking.tracker.mode needs auto, online, offline, got 'on'"),
        ("timeout_s", 0.0, "tracking.tracker.timeout_s needs a value above 0"),
    ],
)
def test_knobs_of_wandb_without_a_meaning_are_refused(knob: str, value: object, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        WandbTracker(**(_KNOBS | {knob: value}))
