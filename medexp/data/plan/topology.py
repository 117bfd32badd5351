"""Where a U-Net pools, and with which kernels, from the size of a patch and the spacing of its voxels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# nnU-Net's limits (Isensee et al., Nature Methods 18, 2021, supplementary note 2).
LEAST_FEATURES = 4
MOST_ANISOTROPIC = 2.0
# A lone axis is pooled only while that leaves somewhat more than the least.
_LEAST_ALONE = 3 * LEAST_FEATURES
LEAST_LEVELS = 3

Numbers = Sequence[float | int]


@dataclass(frozen=True)
class Topology:
    """The levels of a U-Net, finest first.

    Attributes:
        strides: Pooling window before each level; the first keeps the grid.
        kernel_sizes: Kernel of the two convolutions of each level.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.strides)

    @property
    def total_strides(self) -> tuple[int, ...]:
        """By how much the coarsest level is coarser, along each axis; a patch is a multiple of it."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    @property
    def receptive_field(self) -> tuple[int, ...]:
        """Voxels along each axis that a feature of the coarsest level sees."""
        found = []
        for strides, kernels in zip(zip(*self.strides, strict=True), zip(*self.kernel_sizes, strict=True), strict=True):
            field, jump = 1, 1
            for stride, kernel in zip(strides, kernels, strict=True):
                # The first convolution of a level takes the stride.
                field += (kernel - 1) * jump
                jump *= stride
                field += (kernel - 1) * jump
            found.append(field)
        return tuple(found)

    def without_coarsest(self) -> Topology:
        """The same without its last level; the one that is coarsest then has the kernel of the last."""
        return Topology(self.strides[:-1], (*self.kernel_sizes[:-2], self.kernel_sizes[-1]))

    def shapes(self, patch_size: Sequence[int]) -> list[tuple[int, ...]]:
        """Shape of the feature maps of each level."""
        shape, found = tuple(patch_size), []
        for stride in self.strides:
            shape = tuple(n // step for n, step in zip(shape, stride, strict=True))
            found.append(shape)
        return found


def topology(
    patch_size: Numbers, spacing_mm: Numbers, *, divisible: bool = False, most_levels: int | None = None
) -> Topology:
    """The levels for a patch, by nnU-Net's rules.

    An axis is pooled as long as at least 4 voxels are left along it, together with those axes whose spacing is less
    than twice the finest; so an anisotropic grid becomes isotropic first. A kernel is 1 along an axis whose spacing is
    at least twice the finest, else 3; the coarsest level has 3 everywhere.

    Args:
        patch_size: Voxels along each axis.
        spacing_mm: Distance between them.
        divisible: Pool an axis only while its size is even, for a patch that must stay as it is.
        most_levels: Largest number of levels; None: as many as the rules allow.

    Returns:
        The levels, three at least: further ones pool nothing.
    """
    size, spacing = [float(n) for n in patch_size], [float(value) for value in spacing_mm]
    kernel = [1] * len(size)
    strides, kernels = [(1,) * len(size)], []
    while most_levels is None or len(strides) < most_levels:
        pooled = _pooled_axes(size, spacing, divisible=divisible)
        if not pooled:
            break
        kernel = [
            3 if own == 3 or value < MOST_ANISOTROPIC * min(spacing) else 1
            for own, value in zip(kernel, spacing, strict=True)
        ]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in range(len(size))))
        for axis in pooled:
            size[axis] = math.ceil(size[axis] / 2)
            spacing[axis] *= 2
    kernels.append((3,) * len(size))
    missing = max(0, LEAST_LEVELS - len(strides))
    return Topology(
        strides=(*strides, *[(1,) * len(size)] * missing), kernel_sizes=(*kernels, *[(3,) * len(size)] * missing)
    )


def _pooled_axes(size: Numbers, spacing: Numbers, *, divisible: bool) -> list[int]:
    """Axes that the next level pools."""
    large = [axis for axis, n in enumerate(size) if n >= 2 * LEAST_FEATURES and (not divisible or n % 2 == 0)]
    finest = min((spacing[axis] for axis in large), default=0.0)
    pooled = [axis for axis in large if spacing[axis] < MOST_ANISOTROPIC * finest]
    return [] if len(pooled) == 1 and size[pooled[0]] < _LEAST_ALONE else pooled


def padded(patch_size: Numbers, multiples: Sequence[int]) -> tuple[int, ...]:
    """The smallest patch that is a multiple along each axis and not smaller.

    >>> padded((35, 50, 36), (8, 8, 8))
    (40, 56, 40)
    """
    return tuple(math.ceil(n / multiple) * multiple for n, multiple in zip(patch_size, multiples, strict=True))
