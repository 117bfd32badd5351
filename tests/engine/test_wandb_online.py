"""Runs with wandb itself and a local server in place of the service."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import yaml
from tiny import train_tiny
from wandb_server import WandbServer

from medexp.core.config import leaves
from medexp.core.wandb_artifacts import RUN_FILES, RUN_TYPE

_TRACKED = ("tracking=wandb", "tracking.tracker.system_metrics=false", "tracking.tracker.project=lesions")


def test_a_finished_run_arrives_with_its_record_and_nothing_of_the_machine(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "runs", *_TRACKED, "trainer.max_steps=2", "study=first")
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

    received = b"\0".join(wandb_server.received)
    assert run.record.wandb_id.encode() in received
    found = [text for text in (str(tmp_path), str(Path.home()), str(Path.cwd())) if text.encode() in received]
    assert found == []


def test_columns_of_the_configuration_say_what_is_computed_and_nothing_twice(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "runs", *_TRACKED, "trainer.max_steps=1", "loss=focal", "loss.gamma=3.25")
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
