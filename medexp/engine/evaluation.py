"""Judging whole cases: evidence rows, per-case table, overlays, predictions on the image's own grid."""

from __future__ import annotations

from collections.abc import Sequence
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
from medexp.core.types import Batch, EvidenceRow, Metric, Prediction
from medexp.engine.module import Experiment
from medexp.engine.overlays import USUAL, Drawing, draw_overlay
from medexp.engine.signals import StopRequest
from medexp.engine.tracking import Tracking

_OF_SINGLE_OBJECTS = ("score", "outcome", "threshold")


class CaseFiles(pl.Callback):
    """Writes what is asked for of each judged case: overlays, predictions.

    Args:
        folder: The run's folder.
        drawn: Ids of the cases that are drawn.
        drawing: How they are drawn.
        save_predictions: Write the prediction of every case.
        stop: Set by SIGTERM or Ctrl-C; the evaluation ends between two cases.
        tracking: Is told the cases that are drawn.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        drawn: Sequence[str],
        drawing: Drawing = USUAL,
        save_predictions: bool,
        stop: StopRequest,
        tracking: Tracking | None = None,
    ) -> None:
        self.folder = folder
        self.drawn = frozenset(drawn)
        self.drawing = drawing
        self.save_predictions = save_predictions
        self.stop = stop
        self.tracking = tracking

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
                draw_overlay(image, prediction, reference, self.folder.overlays, drawing=self.drawing)
                if self.tracking is not None:
                    self.tracking.case(image, prediction, reference, channel=self.drawing.channel)
            if self.save_predictions:
                save_prediction(prediction, self.folder.predictions)
        if trainer.strategy.reduce_boolean_decision(self.stop.requested, all=False):
            by = self.stop.signal_name or "a signal to another process"
            raise RunInterruptedError(f"stopped by {by} while cases were judged; the training is saved")


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


def save_prediction(prediction: Prediction, folder: Path) -> list[Path]:
    """Write what a final prediction holds, on the image's own grid.

    A mask becomes NIfTI with the image's affine, class values or one volume per region along the last axis; instances
    another one, ending in _instances; objects a table with boxes in voxels (voxel i covers [i, i + 1)); the scores of
    the whole image a table too.

    Args:
        prediction: The prediction.
        folder: Where to; made where it does not exist.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = prediction_stem(prediction.case_id, folder)
    written = []
    if prediction.mask is not None:
        mask = prediction.mask[0] if prediction.exclusive else np.moveaxis(prediction.mask, 0, -1)
        written.append(_write_nifti(mask.astype(np.int16), prediction, Path(f"{stem}.nii.gz")))
    if prediction.instances is not None:
        instances = prediction.instances.astype(np.int32)
        written.append(_write_nifti(instances, prediction, Path(f"{stem}_instances.nii.gz")))
    names = {structure.value: structure.name for structure in prediction.classes}
    if prediction.objects is not None:
        ends = [f"{end}_{axis}" for end in ("low", "high") for axis in range(prediction.objects.spatial_dims)]
        table = pd.DataFrame(prediction.objects.boxes, columns=ends)
        table.insert(0, "label", [names[value] for value in prediction.objects.labels.tolist()])
        table.insert(1, "score", prediction.objects.scores)
        written.append(_write_table(table, Path(f"{stem}_objects.csv")))
    if prediction.scores is not None:
        labels = [structure.name for structure in prediction.classes]
        table = pd.DataFrame({"label": labels, "score": prediction.scores})
        written.append(_write_table(table, Path(f"{stem}_scores.csv")))
    return written


def prediction_stem(case_id: str, folder: Path) -> Path:
    """What the names of the files of a saved prediction begin with."""
    return folder / quote(case_id, safe=" ")


def _write_nifti(array: np.ndarray, prediction: Prediction, path: Path) -> Path:
    affine = np.eye(4)
    dims = prediction.geometry.spatial_dims
    affine[:dims, :dims] = prediction.geometry.affine[:-1, :-1]
    affine[:dims, 3] = prediction.geometry.affine[:-1, -1]
    partial = path.with_name(f".{path.name}")
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), partial)
    partial.replace(path)
    return path


def _write_table(table: pd.DataFrame, path: Path) -> Path:
    write_text(path, table.to_csv(index=False))
    return path


def write_evidence(rows: Sequence[EvidenceRow], metrics: Sequence[Metric], folder: RunFolder, *, part: str) -> None:
    """Write evidence.csv, a line per row, and cases.csv, a line per case."""
    evidence = pd.DataFrame([row._asdict() | {"part": part} for row in rows])
    unused = [name for name in _OF_SINGLE_OBJECTS if evidence[name].replace("", None).isna().all()]
    write_text(folder.evidence, evidence.drop(columns=unused).to_csv(index=False))
    cases = cases_table(rows, metrics)
    cases.insert(2, "part", part)
    write_text(folder.cases, cases.to_csv(index=False))


def cases_table(rows: Sequence[EvidenceRow], metrics: Sequence[Metric]) -> pd.DataFrame:
    """A line per case: its id, its group, and its own value by metric and label, where the metric has one."""
    lines: dict[str, dict[str, Any]] = {}
    of_case: dict[tuple[str, str], list[EvidenceRow]] = {}
    for row in rows:
        lines.setdefault(row.case_id, {"case_id": row.case_id, "group": row.group})
        of_case.setdefault((row.case_id, row.metric), []).append(row)
    for metric in metrics:
        if not metric.per_case:
            continue
        for case_id, line in lines.items():
            own = of_case.get((case_id, metric.name), [])
            values = metric.aggregate(own) if own else {}
            line |= {f"{metric.name}/{label}": value for label, value in values.items() if label != "mean"}
    return pd.DataFrame(list(lines.values()))


def plain_results(results: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Results for JSON, where an undefined value is null."""
    return {
        name: {label: None if value != value else float(value) for label, value in by_label.items()}
        for name, by_label in results.items()
    }
