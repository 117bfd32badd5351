"""Which sizes of a patch pass a network; only shapes are computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

_LARGEST = 256
# What networks shrink patches by: powers of two, and those times three.
_MULTIPLES = [factor * 2**power for factor in (1, 3) for power in range(9) if factor * 2**power <= _LARGEST]


def without_values(model: nn.Module) -> nn.Module:
    """A copy of a model whose parameters and buffers have shapes alone, so that it computes shapes alone.

    Args:
        model: It stays as it was.

    Returns:
        The copy, on torch's device "meta".
    """
    # Parameters without values stand in for the model's own, however often those are shared.
    memo: dict[int, Tensor] = {id(buffer): buffer.detach().to("meta") for buffer in model.buffers()}
    memo |= {id(own): nn.Parameter(own.detach().to("meta"), own.requires_grad) for own in model.parameters()}
    return copy.deepcopy(model, memo)


def nearest_fit(
    model: nn.Module, *, in_channels: int, size: Sequence[int], dense: bool = True
) -> tuple[int, ...] | None:
    """The size of a patch near to another one that passes a model, by trying shapes without values.

    Args:
        model: A model under the contract of dense models; it stays as it was.
        in_channels: Channels of the image.
        size: Spatial shape that is wanted.
        dense: The maps need the size of the patch.

    Returns:
        The size itself where it passes; else one whose axes are the nearest multiples of powers of two (or of
        three times those) that pass; None where no such size passes.
    """
    shapes = without_values(model).eval()

    def passes(tried: Sequence[int]) -> bool:
        try:
            with torch.no_grad():
                outputs = shapes(torch.empty(1, in_channels, *tried, device="meta"))
        except (RuntimeError, ValueError, AssertionError):
            return False
        return not dense or not list(other_sizes(outputs, tried))

    sizes = dict.fromkeys(tuple(_rounded(n, m) for n in size) for m in _MULTIPLES)
    found = next((tried for tried in sizes if passes(tried)), None)
    if found is None:
        return None
    for axis, n in enumerate(size):
        sides = dict.fromkeys(_rounded(n, m) for m in _MULTIPLES)
        tries = ((*found[:axis], side, *found[axis + 1 :]) for side in sides)
        found = next(tried for tried in tries if tried == found or passes(tried))
    return found


def _rounded(n: int, multiple: int) -> int:
    return multiple * max(1, int(n / multiple + 0.5))


def other_sizes(outputs: Mapping[str, object], size: Sequence[int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each head whose map has another size than the patch, and that size."""
    for head, maps in outputs.items():
        if isinstance(maps, Tensor) and tuple(maps.shape[2:]) != tuple(size):
            yield head, tuple(maps.shape[2:])
