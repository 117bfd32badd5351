"""How much of a patch the central voxel of a network's maps sees."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.layers.factories import Pool
from torch import Tensor, nn
from torch.nn.modules import activation
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.pooling import _MaxPoolNd

from medexp.models.fitting import nearest_fit

_LEFT_OUT = (
    _NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    _DropoutNd,
    *(
        kind
        for name in activation.__all__
        if isinstance(kind := getattr(activation, name), type) and name not in ("MultiheadAttention", "GLU")
    ),
)


@dataclass(frozen=True)
class Reach:
    """What the central voxel sees along an axis.

    Attributes:
        voxels: Voxels from the first to the last that it sees.
        whole: The field ends at an edge of the patch, so a larger patch may show a larger one.
    """

    voxels: int
    whole: bool


def receptive_field(model: nn.Module, *, in_channels: int, size: Sequence[int]) -> tuple[Reach, ...]:
    """The receptive field of the central voxel, by the gradient of its maps with respect to the image.

    All weights are made positive, and normalisations and activations are left out (a normalisation over the patch
    would see all of it), so that no two ways cancel. Along each axis the patch has its own length, and along the others
    the least that passes the network.

    Args:
        model: A model under the contract of dense models; it stays as it was.
        in_channels: Channels of the image.
        size: Spatial shape of the patch, which must pass the model.

    Returns:
        What is seen along each axis.
    """
    linear = _linear(model)
    thin = [_thin(model, in_channels, size, axis) for axis in range(len(size))]
    seen = {patch: _seen(linear, in_channels, patch) for patch in dict.fromkeys(thin)}
    return tuple(_along(seen[patch], axis) for axis, patch in enumerate(thin))


def _thin(model: nn.Module, in_channels: int, size: Sequence[int], axis: int) -> tuple[int, ...]:
    wanted = [n if other == axis else 1 for other, n in enumerate(size)]
    found = nearest_fit(model, in_channels=in_channels, size=wanted)
    return found if found is not None and found[axis] == size[axis] else tuple(size)


def _seen(model: nn.Module, in_channels: int, size: tuple[int, ...]) -> Tensor:
    """Where the central voxel's gradient with respect to the image is not zero, of the patch's shape."""
    images = torch.ones(1, in_channels, *size, dtype=torch.float64, requires_grad=True)
    centre = tuple(n // 2 for n in size)
    central = torch.stack([maps[(0, slice(None), *centre)].sum() for maps in model(images).values()]).sum()
    (gradient,) = torch.autograd.grad(central, images)
    return (gradient[0] != 0).any(dim=0)


def _along(seen: Tensor, axis: int) -> Reach:
    others = [other for other in range(seen.ndim) if other != axis]
    where = torch.nonzero(seen.sum(dim=others)).flatten()
    first, last = int(where[0]), int(where[-1])
    return Reach(last - first + 1, first == 0 or last == len(seen.sum(dim=others)) - 1)


def _linear(model: nn.Module) -> nn.Module:
    """A copy in double precision, which keeps the smallest products, whose maps grow with every voxel they see."""
    linear = copy.deepcopy(model).double().eval()
    _replace(linear)
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.fill_(parameter.shape[0] / parameter.numel())
    return linear.requires_grad_(False)


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _LEFT_OUT):
            setattr(module, name, nn.Identity())
        elif isinstance(child, _MaxPoolNd):
            dims = int(type(child).__name__.removeprefix("MaxPool").removesuffix("d"))
            pooled = Pool[Pool.AVG, dims](child.kernel_size, child.stride, child.padding, ceil_mode=child.ceil_mode)
            setattr(module, name, pooled)
        else:
            _replace(child)
