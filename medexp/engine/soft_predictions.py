"""What a trained network predicts before post-processing, computed once a case and kept in files."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from medexp.core.types import Batch, Prediction
from medexp.data.module import ImageData
from medexp.engine.log import without_advice
from medexp.engine.module import Experiment
from medexp.engine.run import Run, load_results_checkpoint
from medexp.engine.work import configured_process


@dataclass(frozen=True)
class SoftCases:
    """Predictions and references of the cases of a part, in files.

    Attributes:
        files: A file for each case.
    """

    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[Prediction, Prediction]]:
        """Prediction before post-processing, and reference, case by case."""
        for file in self.files:
            with file.open("rb") as stream:
                yield pickle.load(stream)


class _Keep(pl.Callback):
    """Writes each prediction and its reference."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert isinstance(pl_module, Experiment)
        for pair in zip(outputs, pl_module.task.reference(batch), strict=True):
            file = self.folder / f"{len(self.files)}.pickle"
            with file.open("wb") as stream:
                pickle.dump(pair, stream, protocol=pickle.HIGHEST_PROTOCOL)
            self.files.append(file)


def predict_parts(
    run: Run, module: Experiment, data: ImageData, folder: Path, *, parts: Sequence[str] = ("val", "test")
) -> dict[str, SoftCases]:
    """Predict the cases of validation, and those of the test part where there is one.

    Args:
        run: The run that the network was trained in.
        module: Gets the weights that the run's results come from.
        data: The run's data.
        folder: Where the files are written; the caller removes them.
        parts: Which parts are wanted.

    Returns:
        The cases by part: "val", and "test" where there is one, as far as they are wanted.

    Raises:
        RecordError: No intact checkpoint is left.
    """
    config = run.config
    load_results_checkpoint(module, run.folder, choice=config.trainer.checkpoint)
    loaders: dict[str, Any] = {"val": data.val_dataloader()} if "val" in parts else {}
    if data.parts.test and "test" in parts:
        loaders["test"] = data.test_dataloader()
    with configured_process(config), without_advice():
        data.prepare_data()
        return {part: _predicted(run, module, loader, folder / part) for part, loader in loaders.items()}


def _predicted(run: Run, module: Experiment, loader: Any, folder: Path) -> SoftCases:
    folder.mkdir(parents=True)
    keep = _Keep(folder)
    trainer = pl.Trainer(
        accelerator=run.config.trainer.accelerator,
        devices=1,
        precision=run.config.precision,
        callbacks=[keep],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    trainer.predict(module, dataloaders=loader, return_predictions=False)
    return SoftCases(tuple(keep.files))
