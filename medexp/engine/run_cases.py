"""The cases of a recorded run, each with its reference and its prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from medexp.core.errors import RecordError, UsageError, did_you_mean
from medexp.core.instantiate import trust_folders
from medexp.core.objects import Objects
from medexp.core.types import Batch, Case, Image, Prediction
from medexp.data.module import EvaluationCases
from medexp.engine.build import build
from medexp.engine.evaluation import prediction_stem
from medexp.engine.run import Run, load_results_checkpoint
from medexp.engine.work import configured_process


@dataclass(frozen=True, eq=False)
class JudgedCase:
    """A case as a run sees it.

    Attributes:
        image: The image as its source reads it.
        prediction: What the run predicts, on the image's own grid.
        reference: What is known, or None where nothing is.
        recomputed: Whether the prediction was computed anew from the checkpoint.
    """

    image: Image
    prediction: Prediction
    reference: Prediction | None
    recomputed: bool


class RunCases:
    """Reads any case of a run's dataset, and predicts it where the run has not saved its prediction.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        trust_folders(run.config.paths.modules)
        self.run = run
        self.parts = build(run.config)
        self._cases = {case.case_id: case for case in self.parts.data.cases}
        self._trained = False

    def worst(self) -> str:
        """Id of the judged case that is worst by the first metric with a value per case, averaged over its labels.

        Returns:
            The id; the first judged case where no metric has a value.

        Raises:
            RecordError: The run has judged no case yet.
        """
        cases = self.run.cases
        for metric in self.parts.module.metrics:
            columns = [name for name in cases.columns if name.startswith(f"{metric.name}/")]
            values = cases[columns].mean(axis=1)
            if columns and values.notna().any():
                place = values.idxmin() if metric.higher_is_better else values.idxmax()
                return str(cases["case_id"][place])
        return str(cases["case_id"].iloc[0])

    def read(self, case_id: str) -> JudgedCase:
        """A case with reference and prediction.

        Args:
            case_id: Its id.

        Returns:
            The case.

        Raises:
            UsageError: The dataset has no such case.
            RecordError: The prediction was not saved, and no intact checkpoint is left.
        """
        case = self._case(case_id)
        batch = self._unprepared(case)
        image = batch.images_read[0]
        reference = None if image.annotation is None else self.parts.module.task.reference(batch)[0]
        saved = None if reference is None else load_prediction(reference, self.run.folder.predictions)
        prediction = saved or self._predict(case)
        return JudgedCase(image=image, prediction=prediction, reference=reference, recomputed=saved is None)

    def _case(self, case_id: str) -> Case:
        if case_id not in self._cases:
            raise UsageError(
                f"the dataset of {self.run.path} has no case {case_id}{did_you_mean(case_id, self._cases)} "
                f"({len(self._cases)} cases, e.g. {next(iter(self._cases))})"
            )
        return self._cases[case_id]

    def _unprepared(self, case: Case) -> Batch:
        """The case as the reference needs it, without what only a network needs."""
        data = self.parts.data
        empty = torch.zeros(0, len(data.source.channels), *[1] * data.source.spatial_dims)
        return Batch(images=empty, targets=None, case_ids=(case.case_id,), images_read=(data.source.read(case),))

    def _predict(self, case: Case) -> Prediction:
        """As the run judged it, in its precision, on a GPU where it trained on one and there is one."""
        config, module = self.run.config, self.parts.module
        if not self._trained:
            load_results_checkpoint(module, self.run.folder, choice=config.trainer.checkpoint)
            module.eval()
            self._trained = True
        on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        device = torch.device("cuda" if on_gpu else "cpu")
        half = torch.float16 if config.precision == "16-mixed" and on_gpu else torch.bfloat16
        batch = EvaluationCases(cases=[case], prepared=self.parts.data.prepared)[0].to(device)
        mixed = torch.autocast(device.type, dtype=half, enabled=config.precision != "32-true")
        with configured_process(config), mixed:
            return module.to(device).predict_cases(batch)[0]


def load_prediction(reference: Prediction, folder: Path) -> Prediction | None:
    """Read what `save_prediction` wrote of a case.

    Args:
        reference: The case's reference, which has the same classes on the same grid.
        folder: Where it was written to.

    Returns:
        The prediction, or None where there is none.

    Raises:
        RecordError: A file is damaged, or names a class that there is not.
    """
    stem = prediction_stem(reference.case_id, folder)
    try:
        mask = _read_mask(Path(f"{stem}.nii.gz"), exclusive=reference.exclusive)
        instances = _read_voxels(Path(f"{stem}_instances.nii.gz"))
        objects = _read_objects(Path(f"{stem}_objects.csv"), reference)
        scores = _read_scores(Path(f"{stem}_scores.csv"))
    except (OSError, ValueError, KeyError, EOFError, nib.filebasedimages.ImageFileError) as error:
        raise RecordError(f"the saved prediction {stem}* is damaged ({error}); remove it, or run again") from error
    if all(part is None for part in (mask, instances, objects, scores)):
        return None
    return replace(
        reference,
        mask=mask,
        instances=instances,
        objects=objects,
        scores=scores,
        valid=None,
        probabilities=None,
        maps={},
    )


def _read_voxels(path: Path) -> np.ndarray | None:
    return np.asarray(nib.load(path).dataobj) if path.exists() else None


def _read_mask(path: Path, *, exclusive: bool) -> np.ndarray | None:
    voxels = _read_voxels(path)
    if voxels is None:
        return None
    return voxels[None] if exclusive else np.moveaxis(voxels, -1, 0)


def _read_objects(path: Path, reference: Prediction) -> Objects | None:
    if not path.exists():
        return None
    table = pd.read_csv(path, dtype={"label": str}, keep_default_na=False)
    values = {structure.name: structure.value for structure in reference.classes}
    boxes = table.drop(columns=["label", "score"]).to_numpy(dtype=np.float64)
    return Objects.of(boxes, np.array([values[name] for name in table["label"]]), table["score"].to_numpy())


def _read_scores(path: Path) -> np.ndarray | None:
    return pd.read_csv(path, keep_default_na=False)["score"].to_numpy(np.float64) if path.exists() else None
