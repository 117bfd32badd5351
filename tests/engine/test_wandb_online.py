"""Runs with wandb itself and a local server in place of the service."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny import tiny, train_tiny
from wandb_server import WandbServer

import medexp
from medexp.compare.from_wandb import fetch_runs
from medexp.core.config import leaves
from medexp.core.wandb_artifacts import REPORT_TYPE, RUN_FILES, RUN_TYPE
from medexp.engine.run import Run
from medexp.engine.shared_record import case_salt, hashed, shared_copies, told_names
from medexp.engine.study import Study
from medexp.engine.wandb_report import log_report

_TRACKED = ("tracking=wandb", "tracking.tracker.system_metrics=false", "tracking.tracker.project=lesions")


def _train(runs: Path, *overrides: str) -> Run:
    run = train_tiny(runs, *_TRACKED, *overrides)
    _assert_tracked(run)
    return run


def _assert_tracked(run: Run) -> None:
    """A tracker that fails does not fail the run; its log says why."""
    told = run.folder.log.read_text()
    assert "tracked by Weights & Biases: http" in told, told
    assert "tracking failed" not in told, told


def test_a_finished_run_arrives_with_its_record_and_nothing_of_the_machine(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = _train(tmp_path / "runs", "trainer.max_steps=2", "study=first")
    (served,) = wandb_server.runs.values()
    assert (served.id, served.project, served.group) == (run.record.wandb_id, "lesions", "first")
    assert served.exit_codes == [0]
    assert served.summary["results/dice/mean"] == run.results["dice"]["mean"]

    (artifact,) = wandb_server.artifacts
    assert (artifact.type, artifact.committed) == (RUN_TYPE, True)
    files = artifact.named_files()
    assert set(files) == set(RUN_FILES)
    record = json.loads(files["run.json"])
    assert record["results"] == run.results
    assert record["fingerprint"] == run.record.fingerprint
    evidence = pd.read_csv(io.BytesIO(files["evidence.csv"]), dtype={"case_id": str})
    assert evidence["value"].tolist() == run.evidence["value"].tolist()
    assert set(evidence["case_id"]).isdisjoint(run.evidence["case_id"])
    assert files["history.csv"] == (run.path / "history.csv").read_bytes()

    (fetched,) = fetch_runs("someone/lesions", tmp_path / "cache", group="first")
    assert Run(fetched).results == run.results
    assert Run(fetched).history.equals(run.history)

    (copy,) = shared_copies([run.path], tmp_path / "copies")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == files

    received = b"\0".join(wandb_server.received)
    assert run.record.wandb_id.encode() in received
    found = [text for text in (str(tmp_path), str(Path.home()), str(Path.cwd())) if text.encode() in received]
    assert found == []


def test_columns_of_the_configuration_say_what_is_computed_and_nothing_twice(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = _train(tmp_path / "runs", "trainer.max_steps=1", "loss=focal", "loss.gamma=3.25")
    (served,) = wandb_server.runs.values()
    columns = dict(leaves(served.plain_config))
    assert [key for key, value in columns.items() if value == 3.25] == ["loss.gamma"]
    assert columns["options.loss"] == "focal"
    assert columns["axes.loss"] == "focal"
    noise = ("paths", "launcher", "tracking", "pictures", "overlays", "callbacks.progress", "options.paths")
    assert [key for key in columns if key.startswith(noise) or key.endswith(("workers", "root", "cache_dir"))] == []
    (artifact,) = wandb_server.artifacts
    config = yaml.safe_load(artifact.named_files()["config.yaml"])
    assert config["options"] == run.config.options
    assert config["task"]["loss"]


@pytest.mark.soak
def test_a_run_that_goes_on_is_the_same_run_with_a_newer_record(wandb_server: WandbServer, tmp_path: Path) -> None:
    knobs = ("tracking.every_steps=1", "study=first")
    before = _train(tmp_path / "runs", *knobs, "trainer.max_epochs=1")
    config = medexp.compose(
        None, tiny(tmp_path / "runs", *_TRACKED, *knobs, "trainer.max_epochs=2", "on_change=resume")
    )
    config.axes = dict(before.record.axes)
    after = medexp.train(config)
    _assert_tracked(after)
    (served,) = wandb_server.runs.values()
    assert after.path == before.path
    assert served.id == after.record.wandb_id
    assert len(after.history) == 2
    steps = [line["step"] for line in served.lines if "batch/loss" in line]
    assert steps == list(range(1, 1 + int(after.history["step"].iloc[-1])))
    assert served.summary["results/dice/mean"] == after.results["dice"]["mean"]
    (fetched,) = fetch_runs("someone/lesions", tmp_path / "cache", group=None)
    assert Run(fetched).results == after.results


def _evidence(folder: Path, *, case_ids: str = "hashed") -> Path:
    """A run folder as far as its names are concerned."""
    folder.mkdir(parents=True)
    (folder / "evidence.csv").write_text("case_id,group,value\nscan 7,Jane Roe,0.5\n")
    (folder / "config.yaml").write_text(yaml.safe_dump({"tracking": {"case_ids": case_ids}}))
    return folder


def test_names_for_others_are_those_that_the_study_has_used(tmp_path: Path) -> None:
    run = _evidence(tmp_path / "my study" / "seed=0")
    salt = case_salt(Study(tmp_path, "my study"))
    assert told_names([run]) == {name: hashed(name, salt=salt) for name in ("scan 7", "Jane Roe")}
    plain = {name: name for name in ("scan 7", "Jane Roe")}
    assert told_names([_evidence(tmp_path / "other" / "seed=0", case_ids="plain")]) == plain
    (run / "config.yaml").write_text("options: {loss: dice}")
    assert told_names([run]) == plain, "a run that was fetched has names for others already"


def test_a_comparison_is_logged_with_files_and_tables_that_name_nobody(
    wandb_server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report, worst, rename = tmp_path / "report.html", tmp_path / "worst.csv", {"scan 7": "0a1b", "Jane Roe": "2c3d"}
    report.write_text("<p>focal is better than dice</p>")
    worst.write_text("case_id,dice\nscan 7,0.1\n")
    cases = pd.DataFrame({"case_id": ["scan 7"], "group": ["Jane Roe"], "difference": [0.25]})
    with caplog.at_level(logging.WARNING, logger="medexp"):
        url = log_report(
            [report, worst], {"differences": cases}, study="my study", project="lesions", entity=None,
            folder=tmp_path / "my study", rename=rename, timeout_s=20.0,
        )  # fmt: skip
    (run,) = wandb_server.runs.values()
    assert (run.group, run.job_type, run.exit_codes) == ("my study", "comparison", [0])
    assert url == f"{wandb_server.url}/someone/lesions/runs/{run.id}"
    (artifact,) = wandb_server.artifacts
    assert artifact.type == REPORT_TYPE
    assert artifact.named_files() == {"report.html": report.read_bytes()}
    assert f"{worst} is not told to Weights & Biases, since it names cases" in caplog.text
    (table,) = (
        json.loads(content) for name, content in run.files.items() if name.startswith("media/table/differences")
    )
    assert table == {"columns": ["case_id", "group", "difference"], "data": [["0a1b", "2c3d", 0.25]]}
    received = b"\0".join(wandb_server.received)
    assert [name for name in (*rename, str(tmp_path)) if name.encode() in received] == []
