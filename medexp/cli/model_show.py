"""`medexp model show`: what a network costs, how far it sees, and whether the patch passes it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from medexp.cli.console import console, told_on_stderr
from medexp.cli.data_fingerprint import composed
from medexp.core.config import plain
from medexp.core.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from medexp.tasks.base import Task

_EPILOG = """EXPERIMENT and OVERRIDES are those of `medexp train`, e.g.
  medexp model show model=segresnet dataset=msd_task04_hippocampus
  medexp model show model=resenc_unet dataset=phantom_3d dataset.patch_size=[64,64,64]

The images need not be on this machine where the dataset has a card (medexp data list). Operations and memory are
counted from shapes, in fp32; the memory is an estimate, without what is held for the time of one operation. The
receptive field is that of the central voxel, by the gradient with respect to the image, with positive weights and
without normalisations and activations.

Exit codes: 0 good, 1 the patch does not pass the network, 2 wrong use."""


@dataclass(frozen=True)
class _Images:
    """What a network must know of the images.

    Attributes:
        spatial_dims: 2 or 3.
        channels: Number of channels.
        labels: Name of each label id.
        from_card: They are not on this machine, and their card says it.
    """

    spatial_dims: int
    channels: int
    labels: Mapping[int, str]
    from_card: bool


def model_show(words: Sequence[str]) -> int:
    """Describe the network that the words configure.

    Args:
        words: Words after `medexp model show`.

    Returns:
        0, or 1 where the patch does not pass the network.

    Raises:
        UsageError: The words configure no network, or options do not fit each other.
        DataError: The dataset is not on this machine, and has no card.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    config = composed(arguments.words, arguments.config_dir)
    from medexp.core.instantiate import instantiate, trust_folders
    from medexp.models.adapter import build_model

    trust_folders(config.paths.modules)
    _fill_in_plan(config)
    images = _images(config)
    task: Task = instantiate(
        config.task, "task", offered={"spatial_dims": images.spatial_dims}, labels=dict(images.labels)
    )
    model = build_model(
        instantiate(config.model, "model"),
        spatial_dims=images.spatial_dims,
        in_channels=images.channels,
        heads=task.heads,
        image_size=tuple(config.dataset.patch_size),
    )
    found = _described(config, images, task, model)
    _print(found)
    if arguments.json is not None:
        from medexp.core.files import write_json

        write_json(arguments.json, found)
    return 0 if found["passes"] else 1


def _fill_in_plan(config: DictConfig) -> None:
    """Plan what the configuration leaves to the plan, for which the images are measured."""
    from medexp.data.plan.configured import fill_in, plan_values, planned_keys

    if planned_keys(config):
        with told_on_stderr():
            fill_in(config, plan_values(config)[0])


def _images(config: DictConfig) -> _Images:
    from medexp.data.catalogue.catalogue import card, names
    from medexp.data.configured import source_of

    try:
        source, _ = source_of(config)
    except (DataError, UsageError):
        name = config.options.get("dataset")
        if name not in names() or not card(name).missing(Path(config.paths.data)) or config.dataset.get("derive"):
            raise
        known = card(name)
        labels = {0: "background", **known.classes}
        return _Images(known.spatial_dims, len(known.channels), labels, from_card=True)
    return _Images(source.spatial_dims, len(source.channels), source.labels, from_card=False)


def _described(config: DictConfig, images: _Images, task: Task, model: nn.Module) -> dict[str, Any]:
    """All that is told, as plain values; what cannot be known is None."""
    size = tuple(config.dataset.patch_size)
    found: dict[str, Any] = {
        "model": config.options.get("model"),
        "dataset": config.options.get("dataset"),
        "from_card": images.from_card,
        "spatial_dims": images.spatial_dims,
        "in_channels": images.channels,
        "heads": dict(task.heads),
        "patch_size": list(size),
        "batch_size": config.dataset.batch_size,
        "strides": _strides(config, images.spatial_dims),
    }
    describe = _of_maps if task.dense else _of_objects
    return {**found, **describe(model, images.channels, size, config.dataset.batch_size)}


def _strides(config: DictConfig, spatial_dims: int) -> list[int] | None:
    from medexp.data.integrity import total_strides

    strides = total_strides(plain(config.model).get("strides"), spatial_dims)
    return None if strides is None else list(strides)


def _of_maps(model: nn.Module, channels: int, size: tuple[int, ...], batch_size: int) -> dict[str, Any]:
    from medexp.models.cost import cost_of
    from medexp.models.fitting import nearest_fit
    from medexp.models.receptive_field import receptive_field

    nearest = nearest_fit(model, in_channels=channels, size=size)
    fitting = size if nearest is None else nearest
    passes = nearest == size
    cost = asdict(cost_of(model, in_channels=channels, size=fitting, batch_size=batch_size)) if nearest else {}
    reach = receptive_field(model, in_channels=channels, size=fitting) if passes else ()
    return {
        "passes": passes,
        "nearest_patch_size": None if nearest is None else list(nearest),
        **cost,
        "receptive_field": [asdict(axis) for axis in reach] or None,
    }


def _of_objects(model: nn.Module, channels: int, size: tuple[int, ...], _: int) -> dict[str, Any]:
    """Networks whose work depends on what they find are run on an image of zeros."""
    import torch

    from medexp.models.adapter import fit_size
    from medexp.models.cost import operations

    images = torch.zeros(1, channels, *size)
    fit_size(model, images, dense=False)
    return {
        "passes": True,
        "nearest_patch_size": list(size),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflops": operations(model, images) / 1e9,
        "receptive_field": None,
    }


def _print(found: Mapping[str, Any]) -> None:
    size, nearest = found["patch_size"], found["nearest_patch_size"]
    where = ", which is not on this machine: channels and classes are its card's" if found["from_card"] else ""
    maps = ", ".join(f"{head} {channels}" for head, channels in found["heads"].items())
    lines = [
        f"{found['model']} for {found['dataset']}{where}",
        f"{'maps':<16} {maps}; from {found['in_channels']} channel(s) in {found['spatial_dims']}D",
        f"{'patch':<16} {_by(size)}{_fit(found)}, {found['batch_size']} a step",
    ]
    counted = "" if size == nearest else f", of a patch of {_by(nearest)}" if nearest else ""
    if "parameters" in found:
        lines.append(f"{'parameters':<16} {found['parameters']:,}")
        lines.append(f"{'operations':<16} {found['gflops']:.3g} GFLOPs a forward pass of one patch{counted}")
    if "step_mb" in found:
        lines.append(
            f"{'memory':<16} about {found['step_mb']:,.0f} MB a step, {found['activations_mb']:,.0f} of them kept for "
            f"the backward pass{counted}; counted from shapes, in fp32 with Adam"
        )
    if found["receptive_field"]:
        seen = [f"{axis['voxels']}{' or more' if axis['whole'] else ''}" for axis in found["receptive_field"]]
        lines.append(f"{'receptive field':<16} {' x '.join(seen)} voxels, normalisations left out")
    for line in lines:
        console().print(line, highlight=False, markup=False)


def _fit(found: Mapping[str, Any]) -> str:
    strides = "" if found["strides"] is None else f" (strides of {_by(found['strides'])})"
    if found["passes"]:
        return f" passes{strides}"
    nearest = found["nearest_patch_size"]
    remedy = f"; choose dataset.patch_size=[{','.join(map(str, nearest))}]" if nearest else "; and none near to it does"
    return f" DOES NOT PASS{strides}{remedy}"


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp model show",
        description="Parameters, operations, memory and receptive field of a network, and whether the patch passes it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[EXPERIMENT] [OVERRIDES]", help="as of `medexp train`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures as JSON")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="your own options, laid out like conf/")
    return parser
