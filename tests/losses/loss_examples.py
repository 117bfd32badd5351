"""Losses as their option files describe them, and logits with targets to judge."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from medexp.core.instantiate import instantiate
from medexp.losses.ignore_index import as_terms

CONF = Path(__file__).parents[2] / "conf"
# These compare no classes with maps of logits; test_mse.py and test_detector_terms.py see that they refuse them.
OF_OTHER_TASKS = {"mse", "detector_terms", "one_stage_terms"}
# This stands for one of the others until a study starts; see test_auto_loss.py.
CHOSEN_LATER = {"auto"}
LOSSES = sorted({file.stem for file in (CONF / "loss").glob("[!_]*.yaml")} - OF_OTHER_TASKS - CHOSEN_LATER)
KINDS = ("classes", "regions")
# Losses of exclusive classes alone.
OF_CLASSES = {"generalised_wasserstein_dice"}
# Losses of labels or regions that may hold at once, alone; that they refuse classes stands in test_bce.py and
# test_asymmetric.py.
OF_REGIONS = {"asymmetric", "bce"}
NOT_SERVED = {"regions": OF_CLASSES, "classes": OF_REGIONS}
PAIRS = [(name, kind) for name in LOSSES for kind in KINDS if name not in NOT_SERVED[kind]]
# Promises that a loss does not make, and why.
DESCENT, REGIONS = "descent finds any target", "regions do not disturb each other"
FALSE_ALARM, SHIFT = "a false alarm is worse than none", "a shifted prediction is worse than the perfect one"
EXEMPT = {
    DESCENT: {
        "boundary": "auxiliary: the outermost voxels of an object have no gradient",
        "cl_dice": "auxiliary: it asks for centre lines, not for every voxel",
        "hausdorff": "auxiliary: a surface that an image lacks gives no distance",
    },
    REGIONS: {
        "generalised_dice": "sums over the regions before it divides",
        "top_k": "takes the worst voxels of all regions together",
        "dice_top_k": "takes the worst voxels of all regions together",
    },
    FALSE_ALARM: {"boundary": "auxiliary: a class that an image lacks has no boundary"},
    SHIFT: {"cl_dice": "auxiliary: a shift that leaves the centre lines within the other's object is none"},
}


def keeps(promise: str) -> list[tuple[str, str]]:
    """The losses that make a promise, with each kind of target."""
    return [pair for pair in PAIRS if pair[0] not in EXEMPT[promise]]


@functools.cache
def _options() -> dict[str, Any]:
    """Content of all option files; composing them at once is much faster than one by one."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="test"):
        composed = compose("train", overrides=[f"+loss@probe.{name}={name}" for name in LOSSES])
    content = OmegaConf.to_container(composed.probe, resolve=False)
    assert isinstance(content, dict)
    return {str(name): option for name, option in content.items()}


def config_of(name: str, kind: str, **changed: Any) -> DictConfig:
    """The configuration of a loss under conf/loss, with some leaves changed."""
    regions = kind == "regions"
    root = OmegaConf.create({"loss": _options()[name], "task": {"softmax": not regions, "sigmoid": regions}})
    for key, value in changed.items():
        OmegaConf.update(root.loss, key, value, merge=False)
    node = root.loss
    assert isinstance(node, DictConfig)
    return node


def build(name: str, kind: str, **changed: Any) -> nn.Module:
    """The loss itself."""
    return instantiate(config_of(name, kind, **changed), "loss") if changed else _unchanged(name, kind)


def build_any(name: str) -> nn.Module:
    """The loss for a kind of target that it serves."""
    return build(name, "regions" if name in OF_REGIONS else "classes")


@functools.cache
def _unchanged(name: str, kind: str) -> nn.Module:
    return instantiate(config_of(name, kind), "loss")


def example(
    kind: str, *, batch: int = 2, channels: int = 3, shape: tuple[int, ...] = (5, 4), seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Logits in double precision, and class indices or overlapping regions."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)
    layers, values = (1, channels) if kind == "classes" else (channels, 2)
    target = torch.randint(values, (batch, layers, *shape), generator=generator, dtype=torch.int16)
    return logits, target


def total(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """Sum of a loss's terms."""
    return torch.stack(list(as_terms(loss(logits, target)).values())).sum()


def is_auxiliary(name: str) -> bool:
    """Whether a loss says that it trains beside another only."""
    return getattr(build_any(name), "auxiliary", False)


def sees_places(name: str) -> bool:
    """Whether a loss, or a term of it, looks at where a voxel lies."""
    return any(getattr(part, "sees_places", False) for part in build_any(name).modules())
