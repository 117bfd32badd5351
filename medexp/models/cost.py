"""What a network costs: parameters, operations and memory, counted from shapes without computing values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medexp.models.fitting import without_values

_FP32_BYTES = 4
# Of each parameter: itself, its gradient, and the two moments of Adam.
_KEPT_OF_A_PARAMETER = 4


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: Number of parameters.
        trained: Number of those that are trained.
        gflops: 1e9 floating point operations of a forward pass of one patch in evaluation: those of convolutions and
            products of matrices, a multiplication and an addition being two.
        activations_mb: 1e6 bytes that the forward pass of a batch in training keeps for the backward pass, in fp32.
        step_mb: 1e6 bytes that a step keeps at once: these, and parameters, gradients and Adam's moments; without
            what is held for the time of one operation.
    """

    parameters: int
    trained: int
    gflops: float
    activations_mb: float
    step_mb: float


def cost_of(model: nn.Module, *, in_channels: int, size: Sequence[int], batch_size: int) -> Cost:
    """Count what a model under the contract of dense models costs.

    Args:
        model: It stays as it was.
        in_channels: Channels of the image.
        size: Spatial shape of the patch, which must pass the model.
        batch_size: Patches of a step.

    Returns:
        The counts.
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    shapes = without_values(model)
    images = torch.empty(batch_size, in_channels, *size, device="meta")
    kept = _kept_bytes(shapes.train(), images)
    fixed = _FP32_BYTES * (parameters + (_KEPT_OF_A_PARAMETER - 1) * trained)
    return Cost(
        parameters=parameters,
        trained=trained,
        gflops=operations(shapes, images[:1]) / 1e9,
        activations_mb=kept / 1e6,
        step_mb=(kept + fixed) / 1e6,
    )


def operations(model: nn.Module, images: Tensor) -> int:
    """Floating point operations of a forward pass in evaluation, as torch counts them.

    Args:
        model: Stays in evaluation.
        images: Of shape (batch, channels, *spatial), on the model's device.

    Returns:
        Their number.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(images)
    return int(counter.get_total_flops())


def _kept_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes of what a forward pass keeps for the backward pass, without parameters; what is kept twice counts once."""
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = model(images)
        # The graph must live while it is counted, or a storage's address would be given to another.
        total = sum(maps.sum() for maps in _maps_in(outputs))
    del total
    return sum(kept.values())


def _maps_in(outputs: Any) -> Iterator[Tensor]:
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, dict | list):
        for part in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from _maps_in(part)
