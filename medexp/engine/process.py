"""Settings of the process that computes: memory, threads, random numbers, deterministic algorithms."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEEP_BYTES = 2**31 - 1
# A module whose attributes are properties, which type checkers do not see.
_DETERMINISTIC: Any = torch.utils.deterministic
_BACKENDS: Any = torch.backends
_TF32_PLACES = (_BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn, _BACKENDS.cuda.matmul)


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory in the process instead of giving each large block back to the system.

    A 3D network frees and takes hundreds of megabytes in each step; page faults then cost as much as the convolutions.

    Returns:
        Whether the allocator took the setting; False where it is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)) and bool(mallopt(_M_MMAP_THRESHOLD, _KEEP_BYTES))


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; 0 is a seed like any other."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_device(device: torch.device, seed: int) -> None:
    """Seed torch's generators of the CPU and of the device that computes.

    `torch.manual_seed` would do the same, but where CUDA is installed and not in use it notes the call with a stack
    trace each time, which took a millisecond a step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def step_seed(seed: int, batch: int) -> int:
    """Seed of torch's generator for one training batch, so that a resumed run draws what an undisturbed one does."""
    return int(np.random.SeedSequence((seed, 2, batch)).generate_state(1, np.uint64)[0] % 2**63)


@contextmanager
def pinned_process(*, threads: int, seed: int, deterministic: bool, tf32: bool) -> Iterator[None]:
    """Threads, seeds, deterministic algorithms and TF32 for the time of a run, restored afterwards.

    Args:
        threads: Threads of torch's operations; one and two threads differ bitwise.
        seed: Seed of all generators.
        deterministic: Choose deterministic algorithms where there are some.
        tf32: Let CUDA round fp32 operands of convolutions and products to 10 bits; torch does so for convolutions
            unless told otherwise.
    """
    threads_before, algorithms_before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_before = torch.is_deterministic_algorithms_warn_only_enabled()
    fill_before = _DETERMINISTIC.fill_uninitialized_memory
    precisions_before = [place.fp32_precision for place in _TF32_PLACES]
    torch.set_num_threads(threads)
    seed_everything(seed)
    # On CUDA some 3D operations have no deterministic backward (see determinism_note): the record says so.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Filling each new tensor cost 13 % of a 3D step on a CPU; nothing here reads memory that it has not written.
    _DETERMINISTIC.fill_uninitialized_memory = False
    for place in _TF32_PLACES:
        place.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(algorithms_before, warn_only=warn_before)
        _DETERMINISTIC.fill_uninitialized_memory = fill_before
        for place, precision in zip(_TF32_PLACES, precisions_before, strict=True):
            place.fp32_precision = precision


def determinism_note(*, device: str, deterministic: bool) -> str:
    """What two runs of one configuration have in common, for the record."""
    if device == "cpu":
        return "bitwise on the same processor type with the same threads and versions"
    if deterministic:
        return (
            "deterministic algorithms where CUDA has them; not bitwise with max-pooling, trilinear upsampling or "
            "adaptive pooling in 3D"
        )
    return "none asked for"


def device_of(config: DictConfig) -> str:
    """The device that computes, "cpu" or "cuda", by what is asked for and what there is."""
    return "cuda" if config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"
