"""Judging whole cases: evidence rows, per-case table, overlays, predictions on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nibabel as nib
import numpy as np
import pandas as pd
import pytorch_lightning as pl

from medexp.core.errors import RunInterruptedError, UsageError, did_you_mean
from medexp.core.files import write_text
from medexp.core.record import RunFolder
from medexp.core.types import Batch, EvidenceRow, Prediction
from medexp.engine.module import Experiment
from medexp.engine.overlays import draw_overlay
from medexp.engine.signals import StopRequest


class CaseFiles(pl.Callback):
    """Writes what is asked for of each judged case: overlays, predictions.

    Args:
        folder: The run's folder.
        drawn: Ids of the cases that are drawn.
        save_predictions: Write the mask of every case.
        stop: Set by SIGTERM or Ctrl-C; the evaluation ends between two cases.
    """

    def __init__(self, *, folder: RunFolder, drawn: Sequence[str], save_predictions: bool, stop: StopRequest) -> None:
        self.folder = folder
        self.drawn = frozenset(drawn)
        self.save_predictions = save_predictions
        self.stop = stop

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen to signals, which Lightning would not pass on."""
        self.stop.install()

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of the cases of one batch."""
        assert isinstance(pl_module, Experiment)
        references = pl_module.task.reference(batch)
        for image, prediction, reference in zip(batch.images_read, outputs["predictions"], references, strict=True):
            if prediction.case_id in self.drawn:
                draw_overlay(image, prediction, reference, self.folder.overlays)
            if self.save_predictions:
                save_mask(prediction, self.folder.predictions)
        if self.stop.requested:
            raise RunInterruptedError(
                f"stopped by {self.stop.signal_name} while cases were judged; the training is saved"
            )


def chosen_cases(wanted: int | Sequence[str], case_ids: Sequence[str]) -> list[str]:
    """Ids of the cases to draw: the given ones, or as many as asked for, spread evenly over the sorted ids.

    Args:
        wanted: A number, or ids.
        case_ids: Ids of the judged cases.

    Returns:
        Ids of the cases to draw.

    Raises:
        UsageError: A given id is not among the judged cases.
    """
    ordered = sorted(case_ids)
    if isinstance(wanted, int):
        places = np.linspace(0, len(ordered) - 1, min(wanted, len(ordered)))
        return [ordered[round(place)] for place in places]
    for name in wanted:
        if name not in ordered:
            raise UsageError(
                f"overlays names case {name}, which is not judged in this fold{did_you_mean(name, ordered)}"
            )
    return list(wanted)


def save_mask(prediction: Prediction, folder: Path) -> Path:
    """Write a mask as NIfTI with the image's own affine: class values, or one volume per region along the last axis."""
    assert prediction.mask is not None
    folder.mkdir(parents=True, exist_ok=True)
    mask = prediction.mask[0] if prediction.exclusive else np.moveaxis(prediction.mask, 0, -1)
    affine = np.eye(4)
    dims = prediction.geometry.spatial_dims
    affine[:dims, :dims] = prediction.geometry.affine[:-1, :-1]
    affine[:dims, 3] = prediction.geometry.affine[:-1, -1]
    path = folder / f"{quote(prediction.case_id, safe=' ')}.nii.gz"
    partial = path.with_name(f".{path.name}")
    nib.save(nib.Nifti1Image(np.ascontiguousarray(mask, dtype=np.int16), affine), partial)
    partial.replace(path)
    return path


def write_evidence(rows: Sequence[EvidenceRow], folder: RunFolder, *, part: str) -> None:
    """Write evidence.csv, a line per row, and cases.csv, a line per case."""
    evidence = pd.DataFrame([asdict(row) | {"part": part} for row in rows])
    write_text(folder.evidence, evidence.to_csv(index=False))
    evidence["column"] = evidence["metric"] + "/" + evidence["label"]
    order = list(dict.fromkeys(evidence["column"]))
    cases = evidence.pivot(index=["case_id", "group", "part"], columns="column", values="value")[order]
    write_text(folder.cases, cases.reset_index().to_csv(index=False))


def plain_results(results: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Results for JSON, where an undefined value is null."""
    return {
        name: {label: None if value != value else float(value) for label, value in by_label.items()}
        for name, by_label in results.items()
    }
