"""Losses as their option files describe them, and logits with targets to judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from medexp.core.instantiate import instantiate
from medexp.losses.ignore_index import as_terms

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf"
LOSSES = sorted(file.stem for file in (CONF / "loss").glob("*.yaml") if not file.stem.startswith("_"))
KINDS = ("classes", "regions")


class Configured:
    """The losses under conf/loss."""

    def __init__(self) -> None:
        with initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="test"):
            composed = compose("train", overrides=[f"+loss@all.{name}={name}" for name in LOSSES])
        self.all = OmegaConf.to_container(composed.all, resolve=False)

    def config(self, name: str, kind: str, **changed: Any) -> DictConfig:
        """The configuration of a loss, with some leaves changed."""
        regions = kind == "regions"
        root = OmegaConf.create({"loss": self.all[name], "task": {"softmax": not regions, "sigmoid": regions}})
        for key, value in changed.items():
            OmegaConf.update(root.loss, key, value, merge=False)
        return root.loss

    def build(self, name: str, kind: str, **changed: Any) -> nn.Module:
        """The loss itself."""
        return instantiate(self.config(name, kind, **changed), "loss")


@pytest.fixture(scope="session")
def configured() -> Configured:
    return Configured()


def example(kind: str, *, batch: int = 2, channels: int = 3, shape=(5, 4), seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits in double precision, and class indices or overlapping regions."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, channels, *shape, generator=generator, dtype=torch.float64)
    layers, values = (1, channels) if kind == "classes" else (channels, 2)
    target = torch.randint(values, (batch, layers, *shape), generator=generator, dtype=torch.int16)
    return logits, target


def total(loss: nn.Module, logits: Tensor, target: Tensor) -> Tensor:
    """Sum of a loss's terms."""
    return torch.stack(list(as_terms(loss(logits, target)).values())).sum()
