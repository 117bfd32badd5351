"""The GPUs of this machine, and which of them a job gets; nothing here imports torch, which would open them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from medexp.core.errors import UsageError

_QUERY = ("nvidia-smi", "--query-gpu=index,memory.total", "--format=csv,noheader,nounits")
_MB_PER_MIB = 1.048576
# What a process needs beside what it allocates through torch (context, kernels).
_CONTEXT_MB = 600.0


@dataclass(frozen=True)
class Gpu:
    """A GPU.

    Attributes:
        number: Its number, as CUDA_VISIBLE_DEVICES counts.
        memory_mb: Its memory, in 1e6 bytes.
    """

    number: int
    memory_mb: float


def visible_gpus() -> list[Gpu]:
    """The GPUs of NVIDIA that this process may use, as nvidia-smi lists them; none where there is no nvidia-smi."""
    try:
        told = subprocess.run(_QUERY, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [Gpu(int(number), float(mib) * _MB_PER_MIB) for number, mib in map(_cells, told.splitlines())]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    return [gpu for gpu in found if str(gpu.number) in visible.split(",")]


def _cells(line: str) -> tuple[str, str]:
    number, memory = line.split(",")
    return number.strip(), memory.strip()


def chosen_gpus(found: Sequence[Gpu], wanted: Sequence[int] | str) -> list[Gpu]:
    """The GPUs that jobs may use.

    Args:
        found: Those that there are.
        wanted: Their numbers, or "auto" for all.

    Returns:
        The GPUs, in the order they are wanted.

    Raises:
        UsageError: A wanted one is not there.
    """
    if wanted == "auto":
        return list(found)
    known = {gpu.number: gpu for gpu in found}
    missing = [number for number in wanted if number not in known]
    if missing:
        raise UsageError(f"launcher.gpus names {missing}, and the GPUs here are {list(known)}")
    return [known[int(number)] for number in wanted]


class Room:
    """Which GPUs have room for another job.

    Jobs share a GPU as long as what they are expected to need fits; one of which nothing is known has it alone.

    Args:
        gpus: All that may be used.
        jobs_per_gpu: How many jobs may share one at most; None for as many as fit.
    """

    def __init__(self, gpus: Sequence[Gpu], *, jobs_per_gpu: int | None = None) -> None:
        self._free_mb = {gpu.number: gpu.memory_mb for gpu in gpus}
        self._total_mb = dict(self._free_mb)
        self._jobs = dict.fromkeys(self._free_mb, 0)
        self._jobs_per_gpu = jobs_per_gpu

    def take(self, *, devices: int, memory_mb: float | None) -> dict[int, float] | None:
        """Reserve room for a job on the emptiest GPUs.

        Args:
            devices: GPUs that the job wants.
            memory_mb: What it is expected to need of each; None where nothing is known.

        Returns:
            What it takes of each GPU by its number; None where there is no room now.
        """
        fits = [number for number in self._free_mb if self._has_room(number, memory_mb)]
        if len(fits) < devices:
            return None
        emptiest = sorted(fits, key=lambda number: (self._jobs[number], -self._free_mb[number], number))[:devices]
        taken = {number: self._wanted(number, memory_mb) for number in sorted(emptiest)}
        for number, megabytes in taken.items():
            self._free_mb[number] -= megabytes
            self._jobs[number] += 1
        return taken

    @property
    def is_left(self) -> bool:
        """Whether a GPU has room for any job."""
        return any(
            not self._jobs[number] or (megabytes > _CONTEXT_MB and self._jobs[number] != self._jobs_per_gpu)
            for number, megabytes in self._free_mb.items()
        )

    def give_back(self, taken: dict[int, float]) -> None:
        """Free what a job has taken."""
        for number, megabytes in taken.items():
            self._free_mb[number] += megabytes
            self._jobs[number] -= 1

    def _has_room(self, number: int, memory_mb: float | None) -> bool:
        if not self._jobs[number]:
            return True
        if self._jobs[number] == self._jobs_per_gpu:
            return False
        return memory_mb is not None and self._wanted(number, memory_mb) <= self._free_mb[number]

    def _wanted(self, number: int, memory_mb: float | None) -> float:
        return self._total_mb[number] if memory_mb is None else memory_mb + _CONTEXT_MB
