from __future__ import annotations

from pathlib import Path

import pytest

TINY = """
defaults:
  - override /dataset: phantom_2d
  - override /metrics: dice
dataset:
  source: {n_cases: 10, shape: [16, 16]}
  patch_size: [16, 16]
  batch_size: 4
  workers: 0
model: {channels: [4, 8], strides: [2], num_res_units: 0}
trainer: {max_steps: 2, accelerator: cpu}
precision: 32-true
threads: 1
overlays: 0
"""

LOSS = '''
import os
import signal
import time

from torch import nn


class Mine(nn.CrossEntropyLoss):
    """Cross-entropy times alpha; fails for -1, dies for -2, and dawdles where the environment says so."""

    def __init__(self, *, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, logits, target):
        time.sleep(float(os.environ.get("DAWDLE_S", "0")))
        if self.alpha == -2:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.alpha == -1:
            raise RuntimeError(f"alpha is {self.alpha}")
        return self.alpha * super().forward(logits, target[:, 0].long())
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDEXP_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def tiny(here: Path) -> Path:
    """An experiment that trains for two steps."""
    path = here / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture
def own_loss(here: Path) -> Path:
    """An experiment in a folder of its own, with its own loss in a module beside it."""
    folder = here / "project"
    folder.mkdir()
    # Modules of one name in two tests would be one in this process.
    module = f"losses_of_{here.name}"
    (folder / f"{module}.py").write_text(LOSS)
    path = folder / "own.yaml"
    path.write_text(f"{TINY}loss: {{_target_: {module}.Mine, alpha: 0.3}}\n")
    return path
