"""Runs with wandb itself and a local server in place of the service."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import yaml
from tiny import train_tiny
from wandb_server import WandbServer

from medexp.core.wandb_artifacts import RUN_FILES, RUN_TYPE

_TRACKED = ("tracking=wandb", "tracking.tracker.system_metrics=false", "tracking.tracker.project=lesions")


def test_a_finished_run_arrives_with_its_record_and_nothing_of_the_machine(
    wandb_server: WandbServer, tmp_path: Path
) -> None:
    run = train_tiny(tmp_path / "runs", *_TRACKED, "trainer.max_steps=2", "study=first")
    (served,) = wandb_server.runs.values()
    assert (served.id, served.group, served.job_type) == (run.record.wandb_id, "first", "train")
    assert (served.project, served.exit_codes) == ("lesions", [0])
    print(json.dumps(served.plain_config, indent=1))
    print(served.summary)
    (artifact,) = wandb_server.artifacts
    assert (artifact.type, artifact.committed) == (RUN_TYPE, True)
    files = artifact.named_files()
    assert set(files) == set(RUN_FILES)
    print(artifact.manifest.decode(), artifact.metadata)
    print(files["run.json"].decode())
    print(files["config.yaml"].decode())
    told = b"\0".join(wandb_server.received)
    assert str(tmp_path).encode() not in told
