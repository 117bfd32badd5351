"""Choosing and applying the numerical precision of a run."""

from __future__ import annotations

import time
from typing import Any

import torch
from omegaconf import DictConfig

from medexp.core.errors import UsageError
from medexp.core.hardware import hardware_precision, native_bf16_cpu
from medexp.data.module import collate
from medexp.engine.build import Parts
from medexp.engine.module import to_fp32

_MEASURED_STEPS = 3
_WORTHWHILE = 0.9


def candidate(accelerator: str) -> tuple[str, str]:
    """The precision that the hardware suggests for an accelerator, and why."""
    on_cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    capabilities = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    on_mps = accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available()
    return hardware_precision(
        capabilities=capabilities if on_cuda else [], native_bf16=native_bf16_cpu(), mps=on_mps and not on_cuda
    )


def check_precision(precision: str, *, device: str) -> None:
    """Refuse fp16 on a CPU, where Lightning would take bf16 instead and the record would name what was not computed.

    Args:
        precision: As Lightning spells it.
        device: "cpu" or "cuda".

    Raises:
        UsageError: The device does not compute in this precision.
    """
    if precision == "16-mixed" and device == "cpu":
        raise UsageError("precision=16-mixed needs a GPU; choose bf16-mixed or 32-true on a CPU, or auto")


def resolve_precision(config: DictConfig, parts: Parts) -> tuple[str, str]:
    """What `precision=auto` means on this machine for this model, and why.

    On a CPU with native bf16 a few training steps are timed in both precisions, and bf16 is taken where it needs less
    than 0.9 of the time.

    Args:
        config: The composed configuration.
        parts: Built once for this measurement; its weights are used up.

    Returns:
        A precision as Lightning spells it, and the reason.
    """
    suggested, reason = candidate(config.trainer.accelerator)
    if suggested != "bf16-mixed" or torch.cuda.is_available():
        return suggested, reason
    full, mixed = _step_seconds(parts)
    chosen = "bf16-mixed" if mixed < _WORTHWHILE * full else "32-true"
    return chosen, f"a training step took {full:.3f} s in fp32 and {mixed:.3f} s in bf16 on this CPU"


def _step_seconds(parts: Parts) -> tuple[float, float]:
    """Shortest time of a training step in fp32 and in bf16, taken in turns since a machine's speed drifts."""
    samples = parts.data.samples
    batch = collate([samples[number] for number in range(parts.data.batch_size)])
    parts.module.train()
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(1 + _MEASURED_STEPS):
        for mixed in times:
            begin = time.perf_counter()
            _one_step(parts.module, batch, mixed=mixed)
            times[mixed].append(time.perf_counter() - begin)
    return min(times[False][1:]), min(times[True][1:])


def _one_step(module: Any, batch: Any, *, mixed: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        outputs = module.task(module.model, batch.images, batch.targets)
    loss = torch.stack(list(module.task.loss(to_fp32(outputs), batch.targets).values())).sum()
    loss.backward()
    module.zero_grad()
