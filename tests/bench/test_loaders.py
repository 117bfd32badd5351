"""Other loaders' patches look like ours, so that the benchmark compares equal work; skipped where not installed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import loaders
import pytest
import torch
from loader_peers import PEERS

_PATCHES = 120
# Others show zeros where their window ends beside the patch, and centre patches on the background in other ways.
_TOLERANCES = {
    "mean": {"abs": 0.12},
    "SD": {"rel": 0.1},
    "gradient": {"rel": 0.2},
    "share of class 1": {"rel": 0.35},
    "share of class 2": {"rel": 0.6},
    "shows class 1": {"abs": 0.1},
    "shows class 2": {"abs": 0.15},
}


def patches_of(name: str, scratch: Path) -> dict[str, float]:
    words = ["--only", name, "--statistics", "--patches", str(_PATCHES), "--scratch", str(scratch)]
    done = subprocess.run([sys.executable, loaders.__file__, *words], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loaders")
    loaders.write_volumes(folder / "volumes", count=4, size=128)
    return folder


@pytest.fixture(scope="module")
def ours(scratch):
    return patches_of(loaders.OURS, scratch)


@pytest.mark.soak
@pytest.mark.parametrize("name", ["nnU-Net", "TorchIO", "MONAI, tuned"])
def test_patches_of_other_loaders_look_like_ours(name, ours, scratch):
    if importlib.util.find_spec(PEERS[name][0]) is None:
        pytest.skip(f"{PEERS[name][0]} is not installed; the benchmark of loaders needs it")
    theirs = patches_of(name, scratch)
    assert set(theirs) == set(_TOLERANCES)
    for key, value in theirs.items():
        assert value == pytest.approx(ours[key], **_TOLERANCES[key]), key


def test_speed_and_memory_are_those_of_the_loader():
    def batches():
        while True:
            time.sleep(0.01)
            yield torch.zeros(2, 1, *[loaders.PATCH] * 3), torch.zeros(2, 1, *[loaders.PATCH] * 3)

    found = loaders.measure(batches(), 50)
    assert 20 < found.patches_per_s < 200
    assert found.memory_mib > 50
    assert 0 <= found.cpu_ms < 1000 / found.patches_per_s + 20
