"""Where commands print."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

_PIPE_WIDTH = 10_000


def console() -> Console:
    """Where results are printed: a line for each row where the output is read by a program."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)


@contextmanager
def told_on_stderr() -> Iterator[None]:
    """How far a long measurement is, for whoever waits."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("medexp.data")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
