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
# Lightning's advice that does not hold here: medexp pins the workers, seeds every sample, and resumes inside an epoch
# by itself; its own use of an older interface of torch's trees; and what torch says of its own Adafactor.
_ADVICE = (
    r".*does not have many workers.*",
    r".*your dataloader is not resumable.*",
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*GPU available but not used.*",
    r".*isinstance\(treespec, LeafSpec\).*",
    r"The `srun` command is available on your system but is not used.*",
    r".*loading a checkpoint outside the 'fit' stage.*",
    r"Converting a tensor with requires_grad=True to a scalar.*",
)


@contextmanager
def logging_to(path: Path, *, terminal_too: bool = True) -> Iterator[None]:
    """Send medexp's and Lightning's messages and warnings to a file, and medexp's own to the terminal too.

    Args:
        path: The file.
        terminal_too: Off for a process that is not the first of its run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.setLevel(logging.INFO)
    medexp = LOGGER.level, LOGGER.propagate
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    handlers: list[logging.Handler] = [file, terminal] if terminal_too else [file]
    for handler in handlers:
        LOGGER.addHandler(handler)
    try:
        with _only_to(file), warnings.catch_warnings():
            for advice in _ADVICE:
                warnings.filterwarnings("ignore", message=advice)
            yield
    finally:
        LOGGER.setLevel(medexp[0])
        LOGGER.propagate = medexp[1]
        for handler in handlers:
            LOGGER.removeHandler(handler)
        file.close()


@contextmanager
def without_advice() -> Iterator[None]:
    """Let Lightning say nothing, and give no advice that does not hold here."""
    with _only_to(logging.NullHandler()), warnings.catch_warnings():
        for advice in _ADVICE:
            warnings.filterwarnings("ignore", message=advice)
        yield


@contextmanager
def _only_to(file: logging.Handler) -> Iterator[None]:
    """Let Lightning write to the file and not to the terminal."""
    loggers = [logging.getLogger(name) for name in _LIGHTNING]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [file]
        logger.propagate = False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.propagate = propagate
