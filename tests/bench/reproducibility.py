"""What is bitwise reproducible: pairs of tiny runs that differ in one respect, compared by weights and evidence.

Run by `make reproducibility`; the table stands in docs/reproducibility.md.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

import medexp
from medexp.core.errors import RunInterruptedError
from medexp.core.hardware import available_cores, cpu_model
from medexp.engine.checkpoints import CheckpointFolder, Checkpoints, load_checkpoint
from medexp.engine.run import Run

_BASE = {
    "dataset.workers": "0",
    "threads": "1",
    "precision": "32-true",
    "metrics": "dice",
    "overlays": "0",
    "augmentation": "light",
    "model.dropout": "0.1",
    "trainer.max_epochs": "3",
    "callbacks": "ema",
}
_DIMENSIONS = {
    "2D": {"dataset": "phantom_2d", "dataset.source.n_cases": "20"},
    "3D": {"dataset": "phantom_3d", "dataset.source.n_cases": "10", "model.channels": "[8,16]", "model.strides": "[2]"},
}
_PAIRS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "the same run twice, fp32": ({}, {}),
    "the same run twice, bf16-mixed": ({"precision": "bf16-mixed"}, {"precision": "bf16-mixed"}),
    "0 and 2 worker processes": ({}, {"dataset.workers": "2"}),
    "a cache that was there and a new one": ({}, {"paths.cache": "CACHE2"}),
    "1 and 2 threads": ({}, {"threads": "2"}),
    "fp32 and bf16-mixed": ({}, {"precision": "bf16-mixed"}),
    "batch 2, and 2 accumulated batches of 1": (
        {"dataset.batch_size": "2", "trainer.steps_per_epoch": "4", "model.dropout": "0.0"},
        {"dataset.batch_size": "1", "trainer.accumulate": "2", "trainer.steps_per_epoch": "4", "model.dropout": "0.0"},
    ),
    "stitched as a whole and in slabs (low_memory)": ({}, {"inferer.low_memory": "true"}),
}


def _train(folder: Path, dimension: str, given: dict[str, str]) -> Run:
    knobs = _BASE | _DIMENSIONS[dimension] | {"paths.runs": str(folder), "paths.cache": str(folder.parent / "cache")}
    knobs |= {key: str(folder.parent / value) if key == "paths.cache" else value for key, value in given.items()}
    with contextlib.redirect_stdout(io.StringIO()):
        return medexp.train(medexp.compose(None, [f"{key}={value}" for key, value in knobs.items()]))


def _weights(run: Run) -> dict[str, torch.Tensor]:
    newest = CheckpointFolder(run.folder.checkpoints).newest()
    assert newest is not None
    weights: dict[str, torch.Tensor] = load_checkpoint(newest)["state_dict"]
    return weights


def _compare(one: Run, other: Run) -> str:
    mine, others = _weights(one), _weights(other)
    largest = max(float((mine[name] - others[name]).abs().max()) for name in mine)
    same_evidence = one.folder.evidence.read_bytes() == other.folder.evidence.read_bytes()
    if largest == 0 and same_evidence:
        return "yes"
    return f"no: weights differ by up to {largest:.0e}, evidence {'equal' if same_evidence else 'differs'}"


def _stopped_and_resumed(folder: Path, dimension: str) -> Run:
    """Stop in the middle of the second epoch, then call again."""
    original = Checkpoints.on_train_batch_end

    def stop(self: Checkpoints, trainer: object, *rest: object) -> None:
        self.stop.signal_name = "SIGTERM" if trainer.global_step == 7 else None  # type: ignore[attr-defined]
        original(self, trainer, *rest)  # type: ignore[arg-type]

    Checkpoints.on_train_batch_end = stop  # type: ignore[assignment]
    knobs = {"trainer.steps_per_epoch": "5"}
    try:
        _train(folder, dimension, knobs)
    except RunInterruptedError:
        pass
    finally:
        Checkpoints.on_train_batch_end = original  # type: ignore[method-assign]
    return _train(folder, dimension, knobs)


def main() -> None:
    """Print the table."""
    root = Path(tempfile.mkdtemp())
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {available_cores()} cores, torch {torch.__version__}\n")
    print("| Two runs | 2D | 3D |\n|---|---|---|")
    try:
        for number, (name, pair) in enumerate(_PAIRS.items()):
            cells = []
            for dimension in _DIMENSIONS:
                runs = [_train(root / f"{number}{dimension}{i}", dimension, given) for i, given in enumerate(pair)]
                cells.append(_compare(*runs))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        cells = []
        for dimension in _DIMENSIONS:
            whole = _train(root / f"whole{dimension}", dimension, {"trainer.steps_per_epoch": "5"})
            cells.append(_compare(whole, _stopped_and_resumed(root / f"stopped{dimension}", dimension)))
        print(f"| undisturbed, and stopped within an epoch and resumed | {' | '.join(cells)} |")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
