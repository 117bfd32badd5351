"""The squared error of maps of numbers."""

from __future__ import annotations

from torch import Tensor, nn

from medexp.core.errors import UsageError


class MeanSquaredError(nn.Module):
    """The mean over all voxels and channels of (said - wanted)^2; for tasks that regress a map.

    Raises:
        UsageError: When called: what is wanted are classes and no map of numbers.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, maps: Tensor, target: Tensor) -> Tensor:
        """The error.

        Args:
            maps: What the network says, of shape (batch, channels, *spatial).
            target: What it should say, real numbers of the same shape.

        Returns:
            A scalar.
        """
        if maps.shape != target.shape or not target.is_floating_point():
            raise UsageError(
                "loss=mse compares maps of numbers, and this task has classes; choose loss=cross_entropy or loss=dice"
            )
        return nn.functional.mse_loss(maps, target)
