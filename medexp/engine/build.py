"""From a composed configuration to the objects of a run."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.errors import UsageError, did_you_mean
from medexp.core.hashing import hash_tensors
from medexp.core.instantiate import instantiate
from medexp.core.record import RunFolder
from medexp.core.types import Metric, Source, holds
from medexp.data.configured import identity_of, source_of
from medexp.data.derive.derived import Derivation
from medexp.data.integrity import model_strides
from medexp.data.module import ImageData, SampleTargets
from medexp.engine.agreement import check_training
from medexp.engine.checkpoints import CheckpointFolder, load_checkpoint
from medexp.engine.module import Experiment, Inferer, innermost_channels
from medexp.engine.process import seed_everything
from medexp.models.adapter import build_model
from medexp.post_processing.chain import Chain
from medexp.tasks.base import Task


@dataclass(frozen=True)
class Parts:
    """What a run is made of.

    Attributes:
        module: The LightningModule with its initial weights.
        data: The batches.
        total_steps: Optimiser steps of the whole training.
    """

    module: Experiment
    data: ImageData
    total_steps: int

    def initial_weights_hash(self) -> str:
        """Hash of the weights as they are now."""
        return hash_tensors(self.module.model.state_dict())


def build(config: DictConfig, *, processes: int = 1) -> Parts:
    """Build module and data; the initial weights follow from the seed and the model alone.

    Args:
        config: A finished configuration.
        processes: How many train the model together.

    Returns:
        The parts of the run.

    Raises:
        UsageError: Two options do not fit each other, or one refuses its values.
    """
    source, derive = source_of(config)
    _check_ignored(source, config)
    task: Task = instantiate(
        config.task, "task", offered={"spatial_dims": source.spatial_dims}, labels=dict(source.labels)
    )
    strides = model_strides(plain(config.model), source.spatial_dims)
    data = image_data(config, source, derive, sample_targets=task.sample_targets, strides=strides, processes=processes)
    total_steps = config.trainer.max_steps or (
        config.trainer.max_epochs * data.batches_per_epoch // config.trainer.accumulate
    )
    model = _model(config, source, task)
    module = Experiment(
        model=model,
        task=task,
        optimizer=instantiate(config.optimizer, "optimizer"),
        parameter_groups=instantiate(config.parameter_groups, "parameter_groups"),
        schedule=instantiate(config.scheduler, "scheduler"),
        total_steps=total_steps,
        inferer=inferer(config, task),
        post_processing=post_processing(config, task),
        metrics=metrics(config, task),
        seed=config.seed,
        channels_last=config.trainer.channels_last,
    )
    check_training(module, config)
    return Parts(module=module, data=data, total_steps=total_steps)


def _model(config: DictConfig, source: Source, task: Task) -> torch.nn.Module:
    """The model with its initial weights, which follow from the seed and the model alone."""
    seed_everything(config.seed)
    model = build_model(
        instantiate(config.model, "model"),
        spatial_dims=source.spatial_dims,
        in_channels=len(source.channels),
        heads=task.heads,
        image_size=tuple(config.dataset.patch_size),
    )
    if config.init_from is not None:
        load_initial_weights(model, Path(config.init_from), skip=list(config.init_skip))
    freeze(model, list(config.freeze))
    if config.trainer.channels_last:
        model.to(memory_format=innermost_channels(source.spatial_dims + 2))
    return model


def image_data(
    config: DictConfig,
    source: Source,
    derive: Sequence[Derivation],
    *,
    sample_targets: SampleTargets,
    strides: Sequence[int] | None = None,
    processes: int = 1,
) -> ImageData:
    """The batches of a configured dataset.

    Args:
        config: A finished configuration.
        source: Lists and reads the cases.
        derive: Steps that the source makes its annotations with.
        sample_targets: Turns the annotation of a training patch into what comes with its pixels.
        strides: Factor by which the network shrinks a patch along each axis, where it is known.
        processes: How many train together.

    Returns:
        The batches.

    Raises:
        UsageError: A knob has an unfit value.
        DataError: Names everything that is wrong with the data.
    """
    accumulate, steps_per_epoch = config.trainer.accumulate, config.trainer.steps_per_epoch
    data: ImageData = instantiate(
        config.dataset,
        "dataset",
        source=source,
        derive=derive,
        augmentation=instantiate(config.augmentation, "augmentation"),
        fold=config.fold,
        seed=config.seed,
        batches_per_epoch=None if steps_per_epoch is None else steps_per_epoch * accumulate,
        accumulate=accumulate,
        processes=processes,
        cache_folder=cache_folder(config) / "prepared",
        identity=identity_of(config),
        sample_targets=sample_targets,
        ignored_label=config.task.get("ignore_index"),
        strides=strides,
    )
    return data


def _check_ignored(source: Source, config: DictConfig) -> None:
    """Refuse to train on voxels that the dataset declares as not annotated."""
    ignored = getattr(source, "ignore_index", None)
    if ignored is not None and config.task.get("ignore_index") != ignored:
        raise UsageError(
            f"dataset {source.name} says that nobody annotated the voxels of label {ignored}; set "
            f"task.ignore_index={ignored} (with a task that has this knob)"
        )


def cache_folder(config: DictConfig) -> Path:
    """Folder of prepared cases and generated data."""
    return Path(config.paths.cache)


def inferer(config: DictConfig, task: Task) -> Inferer:
    """What brings whole images through the model; UsageError where it joins maps and the task has none."""
    found: Inferer = instantiate(config.inferer, "inferer")
    if getattr(found, "dense", False) and not task.dense:
        raise UsageError("this inferer joins the maps of windows, and the task has no maps; choose inferer=whole")
    return found


def post_processing(config: DictConfig, task: Task) -> Chain:
    """The chain of steps, in order, from what the task gives to what it is judged by."""
    steps = [instantiate(step, f"post_processing.steps[{i}]") for i, step in enumerate(config.post_processing.steps)]
    return Chain(steps, takes=task.gives, gives=task.judged)


def metrics(config: DictConfig, task: Task) -> list[Metric]:
    """The metrics, in order.

    Args:
        config: A finished configuration.
        task: What they judge.

    Returns:
        The metrics.

    Raises:
        UsageError: One measures what the task's final predictions do not hold.
    """
    found: dict[str, Metric] = instantiate(config.metrics, "metrics")
    for name, metric in found.items():
        if metric.takes not in holds(task.judged):
            raise UsageError(
                f"metrics.{name} measures {metric.takes}, but the final predictions of this task hold "
                f"{', '.join(holds(task.judged))}; choose other metrics, e.g. metrics=[{','.join(task.usual_metrics)}]"
            )
    return list(found.values())


def load_initial_weights(model: torch.nn.Module, run: Path, *, skip: list[str]) -> None:
    """Copy the last weights of another run into a model.

    Args:
        model: The model to fill.
        run: Folder of the other run.
        skip: Patterns of parameters that keep their initial values.

    Raises:
        UsageError: Names or shapes differ beyond what is skipped.
    """
    newest = CheckpointFolder(RunFolder(run).checkpoints).newest()
    if newest is None:
        raise UsageError(
            f"init_from={run} holds no intact checkpoint; give the folder of a run (the one with run.json)"
        )
    stored = load_checkpoint(newest)["state_dict"]
    weights = {name.removeprefix("model."): value for name, value in stored.items() if name.startswith("model.")}
    own = model.state_dict()
    wanted = {name for name in own if not any(fnmatch.fnmatch(name, pattern) for pattern in skip)}
    wrong = sorted(name for name in wanted if name not in weights or weights[name].shape != own[name].shape)
    if wrong:
        shown = ", ".join(
            f"{name} {tuple(weights[name].shape) if name in weights else 'absent'} -> {tuple(own[name].shape)}"
            for name in wrong[:5]
        )
        raise UsageError(
            f"init_from={run} has another architecture or class count in {len(wrong)} parameters ({shown}); "
            "leave them out with init_skip=[PATTERN,...]"
        )
    model.load_state_dict(own | {name: weights[name] for name in wanted})


def freeze(model: torch.nn.Module, patterns: list[str]) -> None:
    """Exclude the parameters that match a pattern from training.

    Args:
        model: The model.
        patterns: Patterns of parameter names, as of file names.

    Raises:
        UsageError: A pattern matches nothing, or nothing is left to train.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UsageError(f"freeze pattern {pattern} matches no parameter{did_you_mean(pattern, names)}")
    for name, parameter in model.named_parameters():
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"freeze={patterns} leaves no parameter to train")
