"""Refuses optimisers, schedules, callbacks and models that do not fit each other, before anything is trained."""

from __future__ import annotations

from hydra.utils import get_class
from omegaconf import DictConfig
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import nn
from torch.optim import Optimizer

from medexp.core.errors import UsageError
from medexp.core.instantiate import targets
from medexp.engine.module import Experiment
from medexp.engine.optimizers.averaging import AveragingOptimizer


def check_training(module: Experiment, config: DictConfig) -> None:
    """Make the optimiser and its schedule once, and see that they fit the rest.

    Args:
        module: The finished module.
        config: Its configuration.

    Raises:
        UsageError: The optimiser refuses its knobs, an average is averaged again or has stale statistics, or the
            schedule watches what is not there.
    """
    try:
        optimizer = module.configure_optimizers()["optimizer"]
    except (ValueError, TypeError) as error:
        raise UsageError(f"optimizer cannot be built: {error}") from error
    if isinstance(optimizer, AveragingOptimizer):
        _check_average(optimizer, module, config)
    _check_watched(module, config)


def _check_average(optimizer: Optimizer, module: Experiment, config: DictConfig) -> None:
    name = type(optimizer).__name__
    for key, target in targets(config.callbacks, "callbacks"):
        if issubclass(get_class(target), WeightAveraging | StochasticWeightAveraging):
            raise UsageError(f"{key} averages the weights, and so does {name} itself; leave one of them out")
    for where, layer in module.model.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.track_running_stats:
            raise UsageError(
                f"model layer {where} keeps batch statistics of the weights that are trained, and {name} judges their "
                "average, to which these do not belong; choose a model with instance norm, or another optimizer"
            )


def _check_watched(module: Experiment, config: DictConfig) -> None:
    watched = module.schedule.watches
    if watched is None:
        return
    names = [metric.name for metric in module.metrics]
    if watched not in names:
        raise UsageError(f"scheduler.metric={watched} is none of the metrics ({', '.join(names)}); name one of these")
    if not config.trainer.validate_every_epochs:
        raise UsageError(
            f"scheduler.metric={watched} needs validations, and trainer.validate_every_epochs is null; set it"
        )
