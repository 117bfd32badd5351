"""The smallest real experiment: eight phantoms of 32 x 32 and a network of two levels."""

from pathlib import Path

import medexp
from medexp.engine.run import Run

_TINY = (
    "dataset.source.n_cases=8",
    "dataset.source.shape=[32,32]",
    "dataset.patch_size=[32,32]",
    "dataset.batch_size=1",
    "dataset.split.n_folds=4",
    "dataset.workers=0",
    "model.channels=[4,8]",
    "model.strides=[2]",
    "model.num_res_units=0",
    "metrics=dice",
    "precision=32-true",
    "threads=1",
    "overlays=0",
)


def tiny(runs: Path, *overrides: str) -> list[str]:
    """Overrides of a tiny run under `runs`; later ones win over the tiny ones."""
    given = {item.partition("=")[0].lstrip("+") for item in overrides}
    kept = [item for item in _TINY if item.partition("=")[0] not in given]
    return [*kept, f"paths.runs={runs}", f"paths.cache={runs.parent / 'cache'}", *overrides]


def train_tiny(runs: Path, *overrides: str) -> Run:
    """Train a tiny run."""
    return medexp.train(medexp.compose(None, tiny(runs, *overrides)))
