from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from wandb_server import WandbServer

# Tests train without a tracker, unless they are about it; processes that they start inherit this.
os.environ["WANDB_MODE"] = "disabled"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Folder of a real dataset by its name; skips the test where this machine has not got it."""
    root = Path(os.environ.get("MEDEXP_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def find(name: str) -> Path:
        if not (root / name).is_dir():
            pytest.skip(f"no real data: {root / name} is missing; set MEDEXP_DATA to the folder that holds {name}")
        return root / name

    return find


@pytest.fixture
def fresh_wandb() -> Iterator[None]:
    """No settings of wandb, which keeps those of the first run in a process, go from one test to another."""

    def forget() -> None:
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()

    forget()
    yield
    forget()


@pytest.fixture
def wandb_server(fresh_wandb: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """A local server that wandb takes for its service, and a login to it; fails on a call that it does not know."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "of wandb" / name.lower()))
    for name in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER"):
        monkeypatch.setenv(f"WANDB__{name}_RETRY_MAX", "2")
        monkeypatch.setenv(f"WANDB__{name}_RETRY_WAIT_MIN_SECONDS", "0.1")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        yield server
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()  # while the server is there
    assert server.unknown == []
