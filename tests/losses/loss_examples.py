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
OF_OTHER_TASKS = {"mse", "detector_terms"}
LOSSES = sorted({file.stem for file in (CONF / "loss").glob("[!_]*.yaml")} - OF_OTHER_TASKS)
KINDS = ("classes", "regions")


@functools.cache
def _option(name: str) -> Any:
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="test"):
        composed = compose("train", overrides=[f"+loss@probe={name}"])
    return OmegaConf.to_container(composed.probe, resolve=False)


def config_of(name: str, kind: str, **changed: Any) -> DictConfig:
    """The configuration of a loss under conf/loss, with some leaves changed."""
    regions = kind == "regions"
    root = OmegaConf.create({"loss": _option(name), "task": {"softmax": not regions, "sigmoid": regions}})
    for key, value in changed.items():
        OmegaConf.update(root.loss, key, value, merge=False)
    node = root.loss
    assert isinstance(node, DictConfig)
    return node


def build(name: str, kind: str, **changed: Any) -> nn.Module:
    """The loss itself."""
    return instantiate(config_of(name, kind, **changed), "loss")


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
