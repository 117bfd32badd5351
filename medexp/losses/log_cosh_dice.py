"""The logarithm of the hyperbolic cosine of the Dice loss."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.losses.dice import Dice


class LogCoshDice(nn.Module):
    """log cosh of the Dice loss of each image and class, averaged (Jadon, CIBCB 2020): flat where it is small.

    Args:
        dice: The Dice loss, with its own knobs.
    """

    def __init__(self, *, dice: Dice) -> None:
        super().__init__()
        self.dice = dice
        self.pools_batch = dice.pools_batch

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images and classes; target: class index (batch, 1, *spatial) or regions, one a channel."""
        # cosh x = 1 + 2 sinh^2(x / 2) keeps its digits where x is small.
        return torch.log1p(2 * torch.sinh(self.dice.each(logits, target) / 2) ** 2).mean()
