"""Binary cross-entropy of labels or regions that may hold at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import check_overlapping, checked_weight, full_precision, weight_like


class BinaryCrossEntropy(nn.Module):
    """Mean of -(w y log p + (1 - y) log(1 - p)) over images (or voxels) and labels, w the factor on the label's truth.

    torch's BCEWithLogitsLoss takes the factors along the last axis, which is that of the labels in a batch of vectors
    and one of space in a batch of maps; here they lie along the channels. The mean is over the number of values, as
    torch's, not over the sum of the factors. Label smoothing moves the truth towards one half; its minimum is not the
    perfect prediction.

    Args:
        sigmoid: The channels are labels or regions that may hold at once; the loss has no other form.
        pos_weight: Factor on each label where it is true (negatives over positives makes both weigh alike); None: 1.
        label_smoothing: Share of the truth that is spread over yes and no alike, from 0 to below 1.

    Raises:
        UsageError: Classes exclude each other, a knob is out of range, or, when called, `pos_weight` has not one value
            for each channel.
    """

    pools_batch = True

    def __init__(
        self, *, sigmoid: bool, pos_weight: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        check_overlapping("bce", sigmoid=sigmoid)
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"loss.label_smoothing needs a value from 0 to below 1, got {label_smoothing}")
        self.pos_weight = checked_weight(pos_weight, key="loss.pos_weight")
        self.label_smoothing = label_smoothing

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images (or voxels) and labels; target: 0 or 1 for each."""
        logits = full_precision(logits)
        truth = target.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
        factors = None
        if self.pos_weight is not None:
            found = weight_like(self.pos_weight, logits, classes=logits.shape[1], key="loss.pos_weight")
            factors = found.reshape(-1, *[1] * (logits.ndim - 2))
        return F.binary_cross_entropy_with_logits(logits, truth, pos_weight=factors)
