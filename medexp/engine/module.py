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
from medexp.engine.optimizers.averaging import AveragingOptimizer
from medexp.engine.optimizers.groups import ParameterGroups
from medexp.engine.process import seed_device, step_seed
from medexp.engine.rates import Rates
from medexp.engine.schedules import Schedule

Inferer = Callable[[Tensor, Callable[[Tensor], dict[str, Any]]], dict[str, Any]]


class Experiment(pl.LightningModule):
    """A model, a task and what trains and judges them.

    Args:
        model: Maps images to outputs.
        task: What the outputs mean: targets, loss, decoding, reference.
        optimizer: Makes an optimiser from parameters.
        parameter_groups: Divides the parameters into its groups.
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
        parameter_groups: ParameterGroups,
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
        self.parameter_groups = parameter_groups
        self.schedule = schedule
        self.total_steps = total_steps
        self.inferer = inferer
        self.post_processing = post_processing
        self.metrics = metrics
        self.seed = seed
        self.evidence: list[EvidenceRow] = []

    def on_train_start(self) -> None:
        """Train the weights that are trained: a checkpoint holds those that are judged."""
        for optimizer in self._averaging():
            optimizer.go_on()

    def on_train_end(self) -> None:
        """Leave the weights that are judged."""
        for optimizer in self._averaging():
            optimizer.judge()

    def on_validation_start(self) -> None:
        """Judge the weights that are judged."""
        for optimizer in self._averaging():
            optimizer.judge()

    def on_validation_end(self) -> None:
        """Train on."""
        for optimizer in self._averaging():
            optimizer.go_on()

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
        results = self.results()
        for name, by_label in results.items():
            self.log(f"val/{name}", by_label["mean"], batch_size=1, sync_dist=True)
        self._tell_schedule(results)

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
        return [self.post_processing(prediction) for prediction in self.soft_predictions(batch)]

    @torch.no_grad()
    def soft_predictions(self, batch: Batch) -> list[Prediction]:
        """What the task decodes of whole cases, before post-processing, on each image's own grid."""
        decoded: list[Prediction] = self.task.decode(self.inferer(batch.images, self._outputs), batch)
        return decoded

    def predict_step(self, batch: Batch, batch_idx: int) -> list[Prediction]:
        """Soft predictions of whole cases."""
        return self.soft_predictions(batch) if batch.case_ids else []

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimiser of all trainable parameters, and the schedule by steps."""
        also = self.task.parameters() if isinstance(self.task, nn.Module) else ()
        optimizer = self.parameter_groups.optimizer(self.optimizer, self.model, also=also)
        rates = Rates(optimizer, self.schedule, total_steps=self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rates, "interval": "step"}}

    def _averaging(self) -> list[AveragingOptimizer]:
        return [optimizer for optimizer in self.trainer.optimizers if isinstance(optimizer, AveragingOptimizer)]

    def _tell_schedule(self, results: dict[str, dict[str, float]]) -> None:
        """Tell the score of the metric that the schedule watches; of two with one name the first."""
        rates = self.lr_schedulers()
        if self.schedule.watches is None or not isinstance(rates, Rates):
            return
        metric = next(metric for metric in self.metrics if metric.name == self.schedule.watches)
        score = results[metric.name]["mean"]
        rates.observe(score if metric.higher_is_better else -score)

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
