"""The one LightningModule: every task, dimension and stage passes through it without a branch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, zip_longest
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from medexp.core.types import Batch, EvidenceRow, Metric, Prediction
from medexp.engine.process import seed_device, step_seed
from medexp.engine.schedules import Schedule

Inferer = Callable[[Tensor, Callable[[Tensor], dict[str, Any]]], dict[str, Any]]


class Experiment(pl.LightningModule):
    """A model, a task and what trains and judges them.

    Args:
        model: Maps images to outputs.
        task: What the outputs mean: targets, loss, decoding, reference.
        optimizer: Makes an optimiser from parameters.
        schedule: Learning rate over the steps.
        total_steps: Optimiser steps of the whole training.
        inferer: Brings whole images through the model.
        post_processing: Turns soft predictions into final ones.
        metrics: Measures of a prediction.
        seed: Seed of the random numbers in each step.
        channels_last: Lay images and weights out with the channels innermost.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        task: Any,
        optimizer: Callable[..., torch.optim.Optimizer],
        schedule: Schedule,
        total_steps: int,
        inferer: Inferer,
        post_processing: Callable[[Prediction], Prediction],
        metrics: Sequence[Metric],
        seed: int,
        channels_last: bool,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        self.model = model
        self.task = task
        self.optimizer = optimizer
        self.schedule = schedule
        self.total_steps = total_steps
        self.inferer = inferer
        self.post_processing = post_processing
        self.metrics = metrics
        self.seed = seed
        self.evidence: list[EvidenceRow] = []

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the random numbers of this batch."""
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
        seed_device(self.device, step_seed(self.seed, batches * self.trainer.world_size + self.trainer.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """The loss and its weighted terms, computed in fp32 from the outputs."""
        outputs = self.task(self.model, self._laid_out(batch.images), batch.targets)
        with torch.autocast(self.device.type, enabled=False):
            terms = self.task.loss(to_fp32(outputs), batch.targets)
            loss = torch.stack(list(terms.values())).sum()
        return {"loss": loss, "value": loss.detach(), "terms": {name: term.detach() for name, term in terms.items()}}

    def on_validation_epoch_start(self) -> None:
        """Forget the evidence of the validation before."""
        self.evidence = []

    def on_test_epoch_start(self) -> None:
        """Forget the evidence of what was judged before."""
        self.evidence = []

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Judge whole cases."""
        return {"predictions": self._judge(batch)}

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Judge whole cases."""
        return {"predictions": self._judge(batch)}

    def on_validation_epoch_end(self) -> None:
        """Show the mean scores to progress and to callbacks that watch them."""
        self.evidence = joined_evidence(self.evidence)
        for name, by_label in self.results().items():
            self.log(f"val/{name}", by_label["mean"], batch_size=1, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Join the evidence of all processes."""
        self.evidence = joined_evidence(self.evidence)

    def results(self) -> dict[str, dict[str, float]]:
        """Each metric's aggregate by label, from the evidence gathered so far."""
        return {
            metric.name: metric.aggregate([row for row in self.evidence if row.metric == metric.name])
            for metric in self.metrics
        }

    @torch.no_grad()
    def predict_cases(self, batch: Batch) -> list[Prediction]:
        """Final predictions of whole cases, on each image's own grid."""
        outputs = self.inferer(batch.images, self._outputs)
        return [self.post_processing(prediction) for prediction in self.task.decode(outputs, batch)]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser of all trainable parameters, and the schedule by steps."""
        optimizer = self.optimizer([parameter for parameter in self.parameters() if parameter.requires_grad])
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.schedule.factor(step, self.total_steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=innermost_channels(images.ndim)) if self.channels_last else images

    def _outputs(self, images: Tensor) -> dict[str, Any]:
        outputs: dict[str, Any] = to_fp32(self.task(self.model, self._laid_out(images)))
        return outputs

    def _judge(self, batch: Batch) -> list[Prediction]:
        if not batch.case_ids:
            return []
        predictions = self.predict_cases(batch)
        for prediction, reference in zip(predictions, self.task.reference(batch), strict=True):
            for metric in self.metrics:
                self.evidence += metric.rows(prediction, reference)
        return predictions


def innermost_channels(ndim: int) -> torch.memory_format:
    """The layout of batches with two or three spatial axes whose channels lie side by side in memory."""
    return torch.channels_last if ndim == 4 else torch.channels_last_3d


def joined_evidence(rows: list[EvidenceRow]) -> list[EvidenceRow]:
    """The rows of all processes in the order of the cases, which were dealt out in turns."""
    if not dist.is_initialized():
        return rows
    of_processes: list[list[EvidenceRow]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(of_processes, rows)
    by_case = [[list(case) for _, case in groupby(own, key=lambda row: row.case_id)] for own in of_processes]
    return [row for turn in zip_longest(*by_case, fillvalue=[]) for case in turn for row in case]


def to_fp32(value: Any) -> Any:
    """The same structure with every floating-point tensor in fp32."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: to_fp32(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(to_fp32(item) for item in value)
    return value
