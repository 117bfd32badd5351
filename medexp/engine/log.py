"""What a run says: plain lines on the terminal, the same with times in the run's log.txt."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGGER = logging.getLogger("medexp")
_LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch")
# Lightning's advice that does not hold here: medexp pins the workers, seeds every sample, and resumes inside an epoch by
# itself; and its own use of an older interface of torch's trees.
_ADVICE = (
    r".*does not have many workers.*",
    r".*your dataloader is not resumable.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*GPU available but not used.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*loading a checkpoint outside the 'fit' stage.*",
)


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send medexp's and Lightning's messages and warnings to a file, and medexp's own to the terminal too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    lightning = [logging.getLogger(name) for name in _LIGHTNING]
    before = (LOGGER.level, LOGGER.propagate, [(logger.level, logger.propagate) for logger in lightning])
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    for handler in (file, terminal):
        LOGGER.addHandler(handler)
    for logger in lightning:
        logger.addHandler(file)
        logger.propagate = False
    try:
        with warnings.catch_warnings():
            for advice in _ADVICE:
                warnings.filterwarnings("ignore", message=advice)
            yield
    finally:
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
        for logger, (level, propagate) in zip(lightning, before[2], strict=True):
            logger.removeHandler(file)
            logger.setLevel(level)
            logger.propagate = propagate
        for handler in (file, terminal):
            LOGGER.removeHandler(handler)
        file.close()
