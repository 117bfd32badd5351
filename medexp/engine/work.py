"""What every process of a run does alike: train the module, judge the cases."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.errors import UsageError, did_you_mean
from medexp.core.instantiate import instantiate
from medexp.core.record import RunFolder
from medexp.engine.build import Parts, build
from medexp.engine.checkpoints import CheckpointFolder, Checkpoints, VerifiedCheckpointIO
from medexp.engine.evaluation import CaseFiles, chosen_cases
from medexp.engine.heartbeat import Heartbeat
from medexp.engine.history import History
from medexp.engine.overlays import Drawing
from medexp.engine.process import pinned_process
from medexp.engine.processes import Processes
from medexp.engine.pruning import check_trial, is_chosen_from, pruning_of
from medexp.engine.run import load_results_checkpoint
from medexp.engine.signals import StopRequest
from medexp.engine.tracking import Tracking
from medexp.models.adapter import fit_size


def configured_process(config: DictConfig) -> AbstractContextManager[None]:
    """The process as a run wants it, see `pinned_process`."""
    return pinned_process(
        threads=config.threads,
        seed=config.seed,
        deterministic=config.trainer.deterministic,
        tf32=config.trainer.tf32,
    )


class Work:
    """Training and judging in one of the processes of a run.

    Args:
        config: A finished configuration, its `auto` values resolved.
        folder: The run's folder.
        processes: This process and the others.
        tracking: Is told of the run by the first process.
    """

    def __init__(
        self, config: DictConfig, folder: RunFolder, processes: Processes, *, tracking: Tracking | None = None
    ) -> None:
        self.config = config
        self.folder = folder
        self.processes = processes
        self.tracking = tracking
        self.parts: Parts = build(config, processes=processes.world_size)
        self.validation: dict[str, dict[str, float]] = {}
        check_trial(config, self.parts.data.parts)
        self.stop = StopRequest()
        self.drawing = Drawing.of(plain(config.pictures))
        self._drawn = self._drawn_cases()
        self._backend = _known_backend(config.trainer.compile)

    def try_patch(self) -> None:
        """Tell a patch that does not fit the network before anything is recorded."""
        channels = len(self.parts.data.source.channels)
        patch = torch.zeros(1, channels, *self.config.dataset.patch_size)
        fit_size(self.parts.module.model, patch, dense=self.parts.module.task.dense)

    def fit(self, *callbacks: pl.Callback) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Args:
            *callbacks: Further ones of this process.
        """
        if self._backend is not None:
            self.parts.module.model.compile(backend=self._backend)
        history = History(self.folder, writes=self.processes.is_first, tracking=self.tracking)
        newest = CheckpointFolder(self.folder.checkpoints).newest()
        pruning = pruning_of(self.config, self.folder, asks=self.processes.is_first)
        own = [*self._user_callbacks(), *self._heartbeat(), self._checkpoints(), *pruning]
        trainer = self.trainer([history, *own, *callbacks])
        trainer.fit(self.parts.module, datamodule=self.parts.data, ckpt_path=newest, weights_only=True)
        history.flush()
        history.write_csv()
        self.processes.wait_for_first()

    def judge(self, *callbacks: pl.Callback) -> Path:
        """Judge the reported cases by the checkpoint that results come from; the module holds the evidence afterwards.

        Of a trial of a search the validation cases are judged before, where others are reported.

        Args:
            *callbacks: Further ones of this process.

        Returns:
            The checkpoint's file.
        """
        data, module = self.parts.data, self.parts.module
        checkpoint = load_results_checkpoint(module, self.folder, choice=self.config.trainer.checkpoint)
        if is_chosen_from(self.config) and data.parts.evaluated[0] != "val":
            self.trainer([], validate=True).validate(module, datamodule=data, verbose=False)
            self.validation = module.results()
        files = CaseFiles(
            folder=self.folder,
            drawn=self._drawn,
            drawing=self.drawing,
            save_predictions=self.config.save_predictions,
            stop=self.stop,
            tracking=self.tracking,
        )
        trainer = self.trainer([files, *self._user_callbacks(), *self._heartbeat(), *callbacks])
        trainer.test(module, datamodule=data, verbose=False)
        return checkpoint

    def _drawn_cases(self) -> list[str]:
        """Ids of the cases to draw; what cannot be drawn is refused before it is trained for."""
        overlays, data = self.config.overlays, self.parts.data
        channels = data.source.channels
        if self.drawing.channel >= len(channels):
            raise UsageError(
                f"pictures.channel needs a value from 0 to {len(channels) - 1} for {data.source.name} (channels "
                f"{', '.join(channels)}), got {self.drawing.channel}"
            )
        wanted = overlays if isinstance(overlays, int) else list(overlays)
        return chosen_cases(wanted, [case.case_id for case in data.parts.evaluated[1]])

    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(**plain(self.config.trainer.checkpoints), folder=self.folder.checkpoints, stop=self.stop)

    def _user_callbacks(self) -> list[pl.Callback]:
        return [instantiate(node, f"callbacks.{name}") for name, node in self.config.callbacks.items()]

    def _heartbeat(self) -> list[pl.Callback]:
        if not self.processes.is_first:
            return []
        return [Heartbeat(self.folder, metric=f"val/{self.parts.module.metrics[0].name}")]

    def trainer(self, callbacks: list[pl.Callback], *, validate: bool | None = None) -> pl.Trainer:
        """What trains and judges as configured, with these callbacks; on demand with or without validations."""
        knobs = self.config.trainer
        validates = bool(knobs.validate_every_epochs) if validate is None else validate
        steps_per_epoch = self.parts.data.batches_per_epoch // knobs.accumulate
        plugins: list[Any] = [VerifiedCheckpointIO(), *self.processes.plugins()]
        return pl.Trainer(
            accelerator=knobs.accelerator,
            devices=knobs.devices if isinstance(knobs.devices, int | str) else list(knobs.devices),
            num_nodes=knobs.num_nodes,
            strategy=knobs.strategy,
            precision=self.config.precision,
            max_epochs=-(-self.parts.total_steps // steps_per_epoch),
            max_steps=self.parts.total_steps,
            accumulate_grad_batches=knobs.accumulate,
            gradient_clip_val=knobs.gradient_clip_norm,
            limit_val_batches=1.0 if validates else 0,
            check_val_every_n_epoch=knobs.validate_every_epochs or 1,
            num_sanity_val_steps=0,
            callbacks=callbacks,
            plugins=plugins,
            logger=False,
            enable_progress_bar=any(isinstance(callback, pl.callbacks.ProgressBar) for callback in callbacks),
            enable_checkpointing=any(isinstance(callback, pl.callbacks.Checkpoint) for callback in callbacks),
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=self.folder.path,
        )


def _known_backend(name: str | None) -> str | None:
    if name is None:  # the list of backends takes half a second to load
        return None
    known = torch.compiler.list_backends(exclude_tags=())
    if name not in known:
        raise UsageError(f"trainer.compile={name} is no backend of torch.compile{did_you_mean(name, known)}")
    return name
