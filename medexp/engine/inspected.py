"""What a job finds recorded, and what it would cost; nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Standing(StrEnum):
    """What a job finds in its folder."""

    NEW = "new"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    FINISHED = "finished"
    PRUNED = "pruned"
    RUNNING = "running"


@dataclass(frozen=True)
class Cost:
    """What a training costs here, by its first steps.

    Attributes:
        step_s: Seconds of an optimiser step after the first.
        memory_mb: 1e6 bytes: the most that was in use on the GPU, or of the process's memory where the CPU computes.
    """

    step_s: float
    memory_mb: float


@dataclass(frozen=True)
class Inspected:
    """What a job would do.

    Attributes:
        standing: What it finds recorded.
        error: Why it failed when it was run before; None where it did not.
        steps: Optimiser steps of its whole training.
        parameters: Parameters of its network that are trained.
        cost: What it costs; None where no step was tried.
    """

    standing: Standing
    error: str | None
    steps: int
    parameters: int
    cost: Cost | None = None
