"""Asymmetric loss: labels that are false, and surely so, hardly count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import check_overlapping, full_precision, missing_probability


class Asymmetric(nn.Module):
    """Focal loss with an exponent of its own for true and for false labels, the latter with a margin.

    Source: T. Ridnik et al., Asymmetric loss for multi-label classification, ICCV 2021, eq. 4 to 7: -(1 - p)^g+ log p
    where a label is true, -m^g- log(1 - m) where it is false, with m = max(p - margin, 0), so that a false label with a
    probability up to the margin has neither loss nor gradient. The paper sums over the labels; the mean over images (or
    voxels) and labels stands here, as in the other losses. Without exponents and margin it is binary cross-entropy.

    Args:
        sigmoid: The channels are labels or regions that may hold at once; the loss has no other form.
        gamma_positive: Exponent of true labels; the paper has 0.
        gamma_negative: Exponent of false labels; the paper has 4.
        margin: Probability up to which a false label is not pushed down, from 0 to below 1; the paper has 0.05.

    Raises:
        UsageError: Classes exclude each other, or a knob is out of range.
    """

    pools_batch = True

    def __init__(self, *, sigmoid: bool, gamma_positive: float, gamma_negative: float, margin: float) -> None:
        super().__init__()
        check_overlapping("asymmetric", sigmoid=sigmoid)
        for name, gamma in (("gamma_positive", gamma_positive), ("gamma_negative", gamma_negative)):
            if gamma < 0:
                raise UsageError(f"loss.{name} needs a value >= 0, got {gamma}")
        if not 0 <= margin < 1:
            raise UsageError(f"loss.margin needs a value from 0 to below 1, got {margin}")
        self.gamma_positive = gamma_positive
        self.gamma_negative = gamma_negative
        self.margin = margin

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images (or voxels) and labels; target: 0 or 1 for each."""
        logits = full_precision(logits)
        # 1 - m = min(1 - p + margin, 1), from logarithms so that neither p near 1 nor a margin of 0 divides by zero.
        kept = torch.logaddexp(F.logsigmoid(-logits), logits.new_tensor(self.margin).log())
        true = target > 0
        cross_entropy = torch.where(true, F.softplus(-logits), -kept.clamp_max(0.0))
        missing = missing_probability(cross_entropy)
        focus = torch.where(true, missing.pow(self.gamma_positive), missing.pow(self.gamma_negative))
        return (focus * cross_entropy).mean()
