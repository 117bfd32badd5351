"""Tversky loss, which weighs misses against false alarms, and its focal form."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from monai.losses import TverskyLoss
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import check_background, check_smooth, full_precision


class Tversky(nn.Module):
    """One minus the Tversky index of each image and class (Salehi et al., MLMI 2017), averaged, by MONAI's TverskyLoss.

    The index is TP / (TP + alpha FP + beta FN); with alpha = beta = .5 it is Dice. The focal form is (1 - index)^(1 /
    gamma) of Abraham & Khan (ISBI 2019), whose gamma lies from 1 to 3; with gamma = 1 it is the plain one. MONAI
    drops the first of overlapping regions with the background; here regions all count.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes.
        alpha: Weight of false positives.
        beta: Weight of false negatives.
        gamma: Focusing: the larger, the more a class that is nearly right counts.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: One index over all voxels of the batch instead of one per image.

    Raises:
        UsageError: A knob is out of range or has no meaning for regions.
    """

    def __init__(
        self,
        *,
        sigmoid: bool,
        include_background: bool,
        alpha: float,
        beta: float,
        gamma: float,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
    ) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        check_smooth("Tversky loss", smooth_nr=smooth_nr, smooth_dr=smooth_dr)
        if min(alpha, beta) < 0 or not alpha + beta > 0:
            raise UsageError(f"loss.alpha and loss.beta need values >= 0, one above 0, got {alpha} and {beta}")
        if gamma <= 0:
            raise UsageError(f"loss.gamma needs a value above 0, got {gamma}")
        self.pools_batch = batch
        self.gamma = gamma
        self.tversky = TverskyLoss(
            include_background=include_background or sigmoid,
            to_onehot_y=not sigmoid,
            sigmoid=sigmoid,
            softmax=not sigmoid,
            alpha=alpha,
            beta=beta,
            reduction="none",
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
        )

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images and classes; target: class index (batch, 1, *spatial) or regions, one a channel."""
        logits = full_precision(logits)
        loss: Tensor = self.tversky(logits, target.to(logits.dtype))
        return focused(loss, 1 / self.gamma).mean()


def focused(loss: Float[Tensor, "*shape"], exponent: float | Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """A loss from 0 to 1 to a power, with a floor below which the slope of a power below 1 would have no bound."""
    if isinstance(exponent, float | int) and exponent == 1:
        return loss
    return loss.clamp_min(torch.finfo(loss.dtype).eps).pow(exponent)
