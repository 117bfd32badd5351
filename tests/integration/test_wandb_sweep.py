"""A sweep of Weights & Biases: what is exported, and that an agent of wandb's own starts a run of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from medexp.cli.main import main
from medexp.core.record import RunFolder, Status


@pytest.fixture
def export(tiny: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Exports a sweep of the tiny experiment and reads it."""

    def run(*words: str) -> dict[str, Any]:
        assert main(["sweep", "export", str(tiny), *words]) == 0
        sweep: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
        return sweep

    return run


def test_intervals_become_distributions_and_lists_values(export: Callable[..., dict[str, Any]], tiny: Path) -> None:
    sweep = export(
        "--runs",
        "9",
        "seed=3",
        "search=optuna",
        "search.n_trials=9",
        "loss=dice,focal",
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "optimizer.weight_decay=interval(0,0.5)",
        "dataset.batch_size=int(interval(2,6))",
        "trainer.accumulate=range(1,6,2)",
        "post_processing=[argmax],[argmax,keep_largest]",
    )
    assert sweep == {
        "name": "tiny",
        "project": "medexp",
        "program": "medexp",
        "method": "bayes",
        "metric": {"name": "validation/dice/mean", "goal": "maximize"},
        "run_cap": 9,
        "parameters": {
            "loss": {"values": ["dice", "focal"]},
            "optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
            "optimizer.weight_decay": {"distribution": "uniform", "min": 0.0, "max": 0.5},
            "dataset.batch_size": {"distribution": "int_uniform", "min": 2, "max": 6},
            "trainer.accumulate": {"values": [1, 3, 5]},
            "post_processing.steps": {"values": ["[argmax]", "[argmax,keep_largest]"]},
        },
        "command": ["medexp", "train", str(tiny), "seed=3", "search=none", "${args_no_hyphens}"],
    }


def test_a_metric_that_is_better_when_smaller_is_minimised(export: Callable[..., dict[str, Any]]) -> None:
    sweep = export("loss=dice,focal", "seed=0..2", "metrics=[dice,hd95]", "--metric", "hd95")
    assert sweep["metric"] == {"name": "validation/hd95/mean", "goal": "minimize"}
    assert sweep["method"] == "grid"
    assert sweep["parameters"]["seed"] == {"values": [0, 1, 2]}


def test_what_cannot_be_exported_is_told(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["loss=dice"], "a search needs a key with several values"),
        (["loss=dice,focal", "seed=0,1", "--method", "bayes"], "the luckiest"),
        (["optimizer.lr=interval(0,1)", "--method", "grid"], "--method grid needs values"),
        (["dataset.batch_size=tag(log,int(interval(1,8)))"], "no whole numbers on a logarithmic scale"),
        (["loss=dice,focal", "--metric", "dce"], "did you mean dice?"),
    ):
        assert main(["sweep", "export", str(tiny), *words]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.soak
def test_an_agents_own_command_trains_a_run_that_joins_the_sweep(
    export: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.wandb_agent import Agent

    sweep = export(
        "dataset/split=holdout",
        "dataset.split={test: 0.3, val: 0.3}",
        "loss=dice,focal",
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "post_processing=[argmax],[argmax,{remove_small: {min_volume_mm3: 2}}]",
        "dataset.split.stratify_classes=null,[organ,lesion]",
        "trainer.deterministic=true,false",
    )
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):  # which the agent sets
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    chosen = {key: parameter.get("values", [0.005])[-1] for key, parameter in sweep["parameters"].items()}
    agent = Agent(api=None, queue=None)
    agent._sweep_command = sweep["command"]
    arguments = {key: {"value": value} for key, value in chosen.items()}
    agent._command_run({"run_id": "abcd1234", "args": arguments, "program": sweep["program"]})
    assert agent._run_processes["abcd1234"]._popen.wait(timeout=120) == 0

    (run,) = (path.parent for path in Path("runs/tiny").glob("*/run.json"))
    record = RunFolder(run).read()
    assert record.status is Status.FINISHED
    assert record.wandb_id == "abcd1234"
    assert {key: record.axes[key] for key in ("loss", "optimizer.lr", "post_processing")} == {
        "loss": "focal",
        "optimizer.lr": "0.005",
        "post_processing": "[argmax,{remove_small:{min_volume_mm3:2}}]",
    }
    assert record.part == "test"
    assert set(record.validation) == {"dice"}
    (offline,) = (run / "wandb").glob("offline-run-*")
    assert offline.name.endswith("-abcd1234")
    (told,) = offline.glob("*.wandb")
    content = told.read_bytes()
    assert b"sweep123" in content
    assert b"validation/dice/mean" in content
