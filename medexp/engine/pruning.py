"""A run that is a trial of a search: it tells its validations, and stops when the search says so."""

from __future__ import annotations

import os

import pytorch_lightning as pl
from omegaconf import DictConfig

from medexp.core.errors import RunPrunedError, UsageError
from medexp.core.instantiate import instantiate
from medexp.core.record import RunFolder
from medexp.data.splits.parts import Parts
from medexp.engine.module import Experiment
from medexp.search.trials import Reporter, Search


class Pruning(pl.Callback):
    """Tells the score of each validation, and stops a training that promises little; not one that is at its end.

    Args:
        reporter: Where it is told.
        asks: Whether this process does that; the others learn the answer from it.
    """

    def __init__(self, reporter: Reporter, *, asks: bool) -> None:
        self.reporter = reporter
        self.asks = asks

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell the score, and stop where the search wants it."""
        assert isinstance(pl_module, Experiment)
        name = self.reporter.metric or pl_module.metrics[0].name
        score, epoch = pl_module.results()[name]["mean"], trainer.current_epoch + 1
        stop = self.asks and score == score and self.reporter.should_stop(score, epoch=epoch)
        stop = trainer.strategy.broadcast(stop)
        is_end = epoch == trainer.max_epochs or trainer.global_step >= trainer.max_steps > 0
        if stop and not is_end:
            raise RunPrunedError(f"stopped by the search after epoch {epoch}, {name} {score:.4f}")


def pruning_of(config: DictConfig, folder: RunFolder, *, asks: bool) -> list[pl.Callback]:
    """The callback of a trial that may be stopped; none elsewhere.

    Args:
        config: A finished configuration.
        folder: The run's folder.
        asks: Whether this process asks the search.

    Returns:
        One callback or none.
    """
    if not config.trial:
        return []
    search: Search = instantiate(config.search, "search")
    reporter = search.reporter(folder.path.parent, config.trial.number)
    return [] if reporter is None else [Pruning(reporter, asks=asks)]


def id_of_agent() -> str | None:
    """The run that an agent of a W&B sweep opened for this process, which the process has to join; None elsewhere."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


def is_chosen_from(config: DictConfig) -> bool:
    """Whether somebody chooses among several runs by the validation cases: a search, or a sweep of W&B."""
    return bool(config.trial) or id_of_agent() is not None


def check_trial(config: DictConfig, parts: Parts) -> None:
    """Refuse a trial without validation cases.

    Args:
        config: A finished configuration.
        parts: Those of the dataset.

    Raises:
        UsageError: There are none.
    """
    if is_chosen_from(config) and not parts.val:
        raise UsageError(
            "a search chooses by validation cases, and dataset.split has none; choose a split that holds some out of "
            "the training cases"
        )
