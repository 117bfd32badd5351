"""How much memory a training step of a DynUNet takes, from its levels alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from medexp.data.plan.topology import Topology

_FULL, _HALF = 4, 2


@dataclass(frozen=True)
class Network:
    """MONAI's DynUNet, as far as its memory goes.

    Attributes:
        topology: Its levels.
        filters: Channels of each level.
        in_channels: Channels of the image.
        out_channels: Channels of all maps together.
        deep_supervision_levels: Coarser maps that the loss sees; MONAI brings each to the size of the patch.
        residual: Residual blocks instead of plain ones in the encoder; MONAI's decoder has plain ones.
    """

    topology: Topology
    filters: tuple[int, ...]
    in_channels: int
    out_channels: int
    deep_supervision_levels: int = 0
    residual: bool = False

    @property
    def weights(self) -> int:
        """Number of weights."""
        strides = [math.prod(stride) for stride in self.topology.strides]
        kernels = [math.prod(kernel) for kernel in self.topology.kernel_sizes]
        count, before = 0, self.in_channels
        for channels, kernel in zip(self.filters, kernels, strict=True):
            count += _block(before, channels, kernel) + (before * channels + 2 * channels if self.residual else 0)
            before = channels
        for level, (channels, below) in enumerate(zip(self.filters, self.filters[1:], strict=False)):
            count += below * channels * strides[level + 1]
            # MONAI gives the decoder the kernel of the level below.
            count += _block(2 * channels, channels, kernels[level + 1])
        maps = self.filters[: 1 + self.deep_supervision_levels]
        return count + sum((channels + 1) * self.out_channels for channels in maps)

    def kept_values(self, patch_size: Sequence[int]) -> int:
        """Values that the forward pass of one sample keeps for the backward pass.

        Each convolution keeps its input; each normalisation its input; the activation, which works in place, its
        result, which is the next convolution's input. So a convolution adds two maps of its channels, a residual one,
        and where maps are joined there is a further one of twice the channels.
        """
        voxels = [math.prod(shape) for shape in self.topology.shapes(patch_size)]
        of_block = 5 if self.residual else 4
        encoder = sum(of_block * channels * n for channels, n in zip(self.filters, voxels, strict=True))
        decoder = sum(6 * channels * n for channels, n in zip(self.filters[:-1], voxels[:-1], strict=True))
        return encoder + decoder + self.in_channels * voxels[0]

    def step_bytes(self, patch_size: Sequence[int], batch_size: int, *, mixed: bool = False) -> int:
        """Largest memory that tensors take at once in a training step with AdamW.

        What is kept is exact. Beside it the backward pass of the finest level needs about four maps of its channels and
        one of each of the loss's maps at once, or, where there are many of these, the loss about five of each.
        Measured steps on a CPU took between 1 % more and 13 % less. The context and workspaces of the device
        come on top.

        Args:
            patch_size: Spatial shape of a patch.
            batch_size: Patches of a step.
            mixed: Half-precision maps, with fp32 weights.

        Returns:
            Bytes.
        """
        voxels = math.prod(patch_size)
        maps = self.out_channels * (1 + self.deep_supervision_levels)
        width = _HALF if mixed else _FULL
        backward = width * 4 * self.filters[0] + _FULL * maps
        of_sample = width * self.kept_values(patch_size) + voxels * max(backward, _FULL * 5 * maps)
        # A weight, its gradient and the two moments; with mixed precision a copy.
        of_weights = 4 * _FULL + (_HALF if mixed else 0)
        return batch_size * of_sample + of_weights * self.weights


def _block(before: int, channels: int, kernel: int) -> int:
    """Weights of two convolutions, each with a normalisation's scale and shift."""
    return (before + channels) * channels * kernel + 4 * channels
