"""Focal loss, normalised so that it is cross-entropy at gamma 0."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import missing_probability, voxel_cross_entropy


class Focal(nn.Module):
    """Focal loss of Lin et al. (ICCV 2017), eq. 4 and 5: -alpha (1 - p)^gamma log p, p the probability of the truth.

    MONAI's FocalLoss divides the softmax form by the number of classes too, leaves the background out before the
    softmax (a loss of constant zero with one foreground class) and has no gradient for gamma < 1 at a sure voxel; so
    the formula is written here.

    Args:
        sigmoid: The channels are overlapping regions; the mean is over voxels and regions.
        gamma: Focusing exponent; 0 is cross-entropy.
        alpha: Weight of foreground, 1 - alpha that of background; None weighs all alike.
    """

    pools_batch = True

    def __init__(self, *, sigmoid: bool, gamma: float, alpha: float | None) -> None:
        super().__init__()
        if gamma < 0:
            raise UsageError(f"loss.gamma needs a value >= 0, got {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise UsageError(f"loss.alpha needs a value in [0, 1] or null, got {alpha}")
        self.sigmoid = sigmoid
        self.gamma = gamma
        self.alpha = alpha

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over voxels (and regions); target: class index (batch, 1, *spatial) or regions, one a channel."""
        cross_entropy = voxel_cross_entropy(logits, target, sigmoid=self.sigmoid)
        loss = missing_probability(cross_entropy).pow(self.gamma) * cross_entropy
        if self.alpha is not None:
            loss = loss * torch.where(target > 0, self.alpha, 1 - self.alpha)
        return loss.mean()
