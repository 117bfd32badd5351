"""Run folders with made-up evidence; nothing is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from made_up_rows import dice_rows
from omegaconf import OmegaConf

from medexp.core.instantiate import instantiate
from medexp.core.record import Record, RunFolder, Status, run_folder
from medexp.core.types import EvidenceRow

METRICS: dict[str, dict[str, Any]] = {
    "dice": {"_target_": "medexp.metrics.dice.Dice", "both_empty": float("nan")},
    "hd95": {"_target_": "medexp.metrics.hd95.HD95", "percentile": 95.0},
    "auroc": {"_target_": "medexp.metrics.auroc.AUROC"},
    "detection_f1": {
        "_target_": "medexp.metrics.detection_f1.DetectionF1",
        "distance_mm": 5.0,
        "min_score": 0.0,
        "both_empty": float("nan"),
    },
    "pq": {
        "_target_": "medexp.metrics.pq.PanopticQuality",
        "quality": "pq",
        "pooled": True,
        "min_iou": 0.5,
        "both_empty": float("nan"),
    },
    "signed_volume_difference_ml": {"_target_": "medexp.metrics.volume_difference.VolumeDifference", "signed": True},
}
_CONFIG: dict[str, Any] = {
    "trainer": {"max_epochs": 1, "max_steps": 10, "steps_per_epoch": None, "accumulate": 1},
    "dataset": {"batch_size": 2, "patch_size": [8, 8], "source": {"n_cases": 9}},
    "model": {"channels": [4]},
    "optimizer": {"lr": 0.1},
    "paths": {"modules": []},
}


@pytest.fixture(scope="session")
def run_writer() -> Callable[[Path], Callable[..., RunFolder]]:
    """Gives what `write_run` is, for a folder of studies of one's own."""
    return _run_writer


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Writes a finished run of a loss, with the given evidence, and gives its folder.

    Named keys replace what a fair run has: `axes` in the record's axes, `config` in the configuration (dotted keys),
    `record` in the record's fields, `fingerprint` in its fingerprint.
    """
    return _run_writer(tmp_path / "runs")


def _run_writer(runs: Path) -> Callable[..., RunFolder]:
    def write(
        rows: Iterable[EvidenceRow],
        *,
        loss: str,
        fold: int = 0,
        seed: int = 0,
        study: str = "study",
        axes: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        record: dict[str, Any] | None = None,
        fingerprint: dict[str, Any] | None = None,
    ) -> RunFolder:
        rows = list(rows)
        names = list(dict.fromkeys(row.metric for row in rows))
        own_axes = {"loss": loss, "fold": str(fold), "seed": str(seed), **(axes or {})}
        folder = run_folder(runs, study, own_axes)
        folder.path.mkdir(parents=True)
        folder.config.write_text(yaml.safe_dump(_settings(names, loss, fold, seed, config or {})))
        facts = {"data": "d" * 64, "split": f"{fold}" * 64, "initial_weights": f"{seed}" * 64, "data_order": f"o{seed}"}
        definitions = {name: instantiate(OmegaConf.create(METRICS[name]), name).definition() for name in names}
        told = {"status": Status.FINISHED, "part": "val", "precision": "32-true", "metrics": definitions}
        told |= {"fingerprint": facts | (fingerprint or {})} | (record or {})
        folder.write(Record(study=study, axes=own_axes, **told))
        pd.DataFrame([row._asdict() for row in rows]).to_csv(folder.evidence, index=False)
        pd.DataFrame({"epoch": [0, 1], "step": [5, 10], "train/loss": [1.0, 0.5]}).to_csv(folder.history, index=False)
        return folder

    return write


@pytest.fixture
def dice_study(write_run: Callable[..., RunFolder]) -> Callable[..., None]:
    """Writes runs of two methods: `second` differs from `first` by `gain` on the average, in every fold and seed."""

    def write(
        gain: float,
        *,
        n_cases: int = 20,
        folds: Sequence[int] = (0,),
        seeds: Sequence[int] = (0, 1, 2),
        noise: float = 0.01,
        **knobs: Any,
    ) -> None:
        random = np.random.default_rng(0)
        for fold in folds:
            case = 0.7 + random.normal(size=n_cases) * 0.1
            for seed in seeds:
                for loss, shift in (("first", 0.0), ("second", gain)):
                    values = case + shift + random.normal(size=n_cases) * noise
                    write_run(dice_rows(values, prefix=f"f{fold}"), loss=loss, fold=fold, seed=seed, **knobs)

    return write


def _settings(names: Sequence[str], loss: str, fold: int, seed: int, changed: dict[str, Any]) -> dict[str, Any]:
    settings = copy.deepcopy(_CONFIG)
    settings |= {"seed": seed, "fold": fold, "loss": {"name": loss}, "options": {"loss": loss}}
    settings["metrics"] = {name: METRICS[name] for name in names}
    for key, value in changed.items():
        _set(settings, key.split("."), value)
    return settings


def _set(settings: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        settings = settings.setdefault(part, {})
    settings[parts[-1]] = value
