"""Focal and focal Tversky loss under common knobs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import Counts, missing_probability, soft_and_truth, voxel_cross_entropy
from medexp.losses.tversky import focused


class UnifiedFocal(nn.Module):
    """Unified focal loss of Yeung et al. (Comput Med Imaging Graph 95, 2022), symmetric or asymmetric.

    weight * F + (1 - weight) * T. F is the focal loss with exponent gamma, foreground weighted by delta and background
    by 1 - delta, as a mean over voxels. T is the focal Tversky loss (1 - index)^(1 - gamma) with delta on misses and 1
    - delta on false alarms, as a mean over images and classes, background too. The asymmetric form focuses the
    background alone in F and the foreground alone in T, so that nothing rare is suppressed. Exponents are those of the
    authors' code; with gamma 0 nothing is focused: for delta .5, F is half the cross-entropy, and T is Dice with
    background.

    The paper has one foreground class. Of several each is foreground; each of overlapping regions is a foreground with
    its own background. MONAI's AsymmetricUnifiedFocalLoss takes two classes alone, applies neither softmax nor sigmoid,
    and halves F; so the formula is written here.

    Args:
        sigmoid: The channels are overlapping regions.
        asymmetric: The asymmetric form.
        weight: Share of the focal loss, from 0 to 1.
        delta: Weight of foreground and of misses, above 0 and below 1.
        gamma: Focusing, from 0 to below 1.
        smooth: Added to numerator and denominator of the Tversky index, above 0.

    Raises:
        UsageError: A knob is out of range.
    """

    def __init__(
        self, *, sigmoid: bool, asymmetric: bool, weight: float, delta: float, gamma: float, smooth: float
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise UsageError(f"loss.weight needs a value from 0 to 1, got {weight}")
        if not 0 < delta < 1:
            raise UsageError(f"loss.delta needs a value above 0 and below 1, got {delta}")
        if not 0 <= gamma < 1:
            raise UsageError(f"loss.gamma needs a value from 0 to below 1, got {gamma}")
        if smooth <= 0:
            raise UsageError(f"loss.smooth needs a value above 0, got {smooth}")
        self.sigmoid = sigmoid
        self.asymmetric = asymmetric
        self.weight = weight
        self.delta = delta
        self.gamma = gamma
        self.smooth = smooth

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """The loss; target: class index (batch, 1, *spatial) or regions, one a channel."""
        return self.weight * self._focal(logits, target) + (1 - self.weight) * self._tversky(logits, target)

    def _focal(self, logits: Tensor, target: Tensor) -> Float[Tensor, ""]:
        cross_entropy = voxel_cross_entropy(logits, target, sigmoid=self.sigmoid)
        focusing = missing_probability(cross_entropy).pow(self.gamma)
        if self.asymmetric:
            focusing = torch.where(target > 0, 1.0, focusing)
        weights = self.delta * (target > 0) + (1 - self.delta) * (target <= 0)
        return (weights * focusing * cross_entropy).mean()

    def _tversky(self, logits: Tensor, target: Tensor) -> Float[Tensor, ""]:
        soft, truth = soft_and_truth(logits, target, sigmoid=self.sigmoid, include_background=True)
        counts = Counts.of(soft, truth, batch=False)
        losses = self._one_minus_index(counts)
        back, fore = (
            (self._one_minus_index(counts.of_complements), losses)
            if self.sigmoid
            else losses.split([1, losses.shape[1] - 1], dim=1)
        )
        back = back if self.asymmetric else focused(back, 1 - self.gamma)
        return torch.cat([back, focused(fore, 1 - self.gamma)], dim=1).mean()

    def _one_minus_index(self, counts: Counts) -> Float[Tensor, "images classes"]:
        agreement = counts.tp + self.smooth
        return 1 - agreement / (agreement + self.delta * counts.fn + (1 - self.delta) * counts.fp)
