from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

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
