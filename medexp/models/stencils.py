"""Kernel shapes other than the box, and convolutions that keep to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from monai.networks.layers import Conv
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from medexp.core.errors import UsageError, did_you_mean

Stencil = Bool[Tensor, "*kernel"]
Offsets = Float[Tensor, "axes *kernel"]

_CLOSE = 1e-6  # a voxel whose centre lies on the border belongs to the shape
# Of a regular pentagon that stands on a side: the side over the largest width, and the height at which it is widest.
_PENTAGON_BASE = (math.sqrt(5) - 1) / 2
_PENTAGON_WIDEST = 1 - _PENTAGON_BASE


def stencil(shape: str | Sequence[Any], kernel_size: Sequence[int]) -> Stencil:
    """Which voxels of a kernel's box have a weight.

    A voxel at offset o from the middle of a box of k voxels (odd) has the coordinate c = o / ((k - 1) / 2), so that the
    outermost centres lie at -1 and 1, and the coordinate e = o / (k / 2), so that the box itself ends there; both are 0
    where k = 1. The shapes, in 2D (first axis down, second axis right) and, where named so, in 3D:

    - `square`, `cube`: the whole box.
    - `cross`: the voxels on the axes, at most one offset not 0; in 2D and 3D.
    - `disk`, `sphere`: sum of c^2 <= 1.
    - `diamond`, `octahedron`: sum of |c| <= 1.
    - `triangle`: |e2| <= (1 + e1) / 2, an isosceles triangle that fills the box, tip up.
    - `pentagon`: the regular pentagon, tip up, stretched to the box: with t = (1 + e1) / 2 from tip to base and the
      golden ratio's g = (sqrt(5) - 1) / 2 = .618, |e2| is at most t / (1 - g) down to t = 1 - g, where the pentagon
      is as wide as the box, and from there falls on a line to g at t = 1.
    - `prism`, `pentagonal_prism`: triangle and pentagon in the last two axes, the same all along the first.

    Of 3 x 3 voxels, disk and diamond are the cross; from 5 x 5 on they differ.

    Args:
        shape: A name, or a nested list of true and false (or 1 and 0) over the box.
        kernel_size: Voxels of the box along each axis; odd.

    Returns:
        True where there is a weight.

    Raises:
        UsageError: No such shape in so many dimensions, a list of another shape than the box, or one without any voxel.
    """
    size = tuple(kernel_size)
    if not isinstance(shape, str):
        return _listed(shape, size)
    rules = {2: _RULES_2D, 3: _RULES_3D}.get(len(size), {})
    if shape not in rules:
        raise UsageError(
            f"model.kernel_shape is one of {', '.join(rules)} in {len(size)}D, or a nested list of 0 and 1, "
            f"got {shape}{did_you_mean(shape, rules)}"
        )
    return rules[shape](_offsets(size, lambda k: (k - 1) / 2), _offsets(size, lambda k: k / 2))


def _listed(values: Sequence[Any], size: tuple[int, ...]) -> Stencil:
    try:
        given = torch.tensor(values)
    except (TypeError, ValueError) as error:
        raise UsageError(f"model.kernel_shape needs a name or a nested list of 0 and 1, got {values}") from error
    if tuple(given.shape) != size:
        raise UsageError(
            f"model.kernel_shape lists {tuple(given.shape)} voxels and model.kernel_size has a box of {size}; "
            "they need to be the same at every level"
        )
    if not bool(((given == 0) | (given == 1)).all()) or not bool(given.any()):
        raise UsageError(f"model.kernel_shape needs 0 and 1 with at least one 1, got {values}")
    return given.bool()


def _offsets(size: tuple[int, ...], half: Callable[[int], float]) -> Offsets:
    """Offsets from the middle in units of half a length, 0 along an axis of one voxel."""
    axes = [(torch.arange(k, dtype=torch.float64) - (k - 1) / 2) / (half(k) if k > 1 else 1.0) for k in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).float()


def _box(centres: Offsets, edges: Offsets) -> Stencil:
    return torch.ones(centres.shape[1:], dtype=torch.bool)


def _cross(centres: Offsets, edges: Offsets) -> Stencil:
    return (centres != 0).sum(dim=0) <= 1


def _ball(centres: Offsets, edges: Offsets) -> Stencil:
    return centres.square().sum(dim=0) <= 1 + _CLOSE


def _octahedron(centres: Offsets, edges: Offsets) -> Stencil:
    return centres.abs().sum(dim=0) <= 1 + _CLOSE


def _triangle(centres: Offsets, edges: Offsets) -> Stencil:
    down, right = edges[-2], edges[-1]
    return right.abs() <= (1 + down) / 2 + _CLOSE


def _pentagon(centres: Offsets, edges: Offsets) -> Stencil:
    down, right = (1 + edges[-2]) / 2, edges[-1]
    above = down / _PENTAGON_WIDEST
    below = 1 - (1 - _PENTAGON_BASE) * (down - _PENTAGON_WIDEST) / (1 - _PENTAGON_WIDEST)
    return right.abs() <= torch.minimum(above, below) + _CLOSE


_Rule = Callable[[Offsets, Offsets], Stencil]
_RULES_2D: Mapping[str, _Rule] = {
    "square": _box,
    "cross": _cross,
    "disk": _ball,
    "diamond": _octahedron,
    "triangle": _triangle,
    "pentagon": _pentagon,
}
# The name of the plane shape serves for the solid too, so that one configuration fits both.
_RULES_3D: Mapping[str, _Rule] = {
    **_RULES_2D,
    "cube": _box,
    "sphere": _ball,
    "octahedron": _octahedron,
    "prism": _triangle,
    "pentagonal_prism": _pentagon,
}


class _Masked(_ConvNd):
    """What both masked convolutions do beside the convolution itself."""

    stencil: Tensor

    def _keep_to(self, stencil: Stencil) -> None:
        self.register_buffer("stencil", stencil.clone(), persistent=False)
        # torch draws weights and bias from U(-b, b) with b^2 = 1 / fan_in; fan_in counts the weights that there are.
        widen = math.sqrt(stencil.numel() / int(stencil.sum()))
        with torch.no_grad():
            self.weight.mul_(stencil * widen)
            if self.bias is not None:
                self.bias.mul_(widen)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        key = f"{prefix}weight"
        if key in state_dict and state_dict[key].shape == self.weight.shape:
            state_dict[key] = state_dict[key] * self.stencil.to(state_dict[key].device)
        super()._load_from_state_dict(state_dict, prefix, *others)


class MaskedConv2d(_Masked, nn.Conv2d):
    """A 2D convolution with stride 1 whose weights off a stencil are zero and stay so.

    The weight has the shape of a whole box, so that weights of nn.Conv2d can be loaded; what lies off the stencil is
    set to zero when it is drawn or loaded, is left out of the sum and gets a gradient of zero.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        stencil: True where there is a weight; odd along each axis.
        bias: Add a number to each channel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stencil: Bool[Tensor, "h w"], bias: bool) -> None:
        height, width = stencil.shape
        super().__init__(in_channels, out_channels, (height, width), padding=(height // 2, width // 2), bias=bias)
        self._keep_to(stencil)

    def forward(self, input: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out_channels h w"]:
        """The convolution; the map keeps its size."""
        return self._conv_forward(input, self.weight * self.stencil, self.bias)


class MaskedConv3d(_Masked, nn.Conv3d):
    """A 3D convolution with stride 1 whose weights off a stencil are zero and stay so; see `MaskedConv2d`.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        stencil: True where there is a weight; odd along each axis.
        bias: Add a number to each channel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stencil: Bool[Tensor, "d h w"], bias: bool) -> None:
        depth, height, width = stencil.shape
        padding = (depth // 2, height // 2, width // 2)
        super().__init__(in_channels, out_channels, (depth, height, width), padding=padding, bias=bias)
        self._keep_to(stencil)

    def forward(self, input: Float[Tensor, "batch channels d h w"]) -> Float[Tensor, "batch out_channels d h w"]:
        """The convolution; the map keeps its size."""
        return self._conv_forward(input, self.weight * self.stencil, self.bias)


def convolution(
    in_channels: int, out_channels: int, *, kernel_size: Sequence[int], shape: str | Sequence[Any], bias: bool
) -> nn.Module:
    """A convolution that keeps the grid, over a kernel of any shape; torch's own where the kernel is a whole box.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of the result.
        kernel_size: Voxels along each of 2 or 3 axes; odd.
        shape: As `stencil` takes it.
        bias: Add a number to each channel.

    Returns:
        The convolution.
    """
    voxels = stencil(shape, kernel_size)
    if not bool(voxels.all()):
        masked = MaskedConv2d if voxels.ndim == 2 else MaskedConv3d
        return masked(in_channels, out_channels, stencil=voxels, bias=bias)
    padding = tuple(k // 2 for k in kernel_size)
    made: nn.Module = Conv[Conv.CONV, voxels.ndim](
        in_channels, out_channels, tuple(kernel_size), padding=padding, bias=bias
    )
    return made
