"""Cross-entropy over exclusive classes or over overlapping regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import checked_weight, full_precision, weight_like


class CrossEntropy(nn.Module):
    """Mean cross-entropy per voxel: of the softmax for exclusive classes, of each sigmoid for overlapping regions.

    MONAI's DiceCELoss takes the softmax form for several overlapping regions too; here the regions get the binary form.
    With weights the mean is the weighted one, as torch's: each voxel counts by the weight of its true class, or of its
    region; it is 0 where all that occurs has weight 0. Label smoothing is that of Szegedy et al. (CVPR 2016); its
    minimum is not the perfect prediction. With top-k only the worst voxels (and regions) of the batch count, by their
    weighted loss, as nnU-Net has it (Isensee et al., Nature Methods 2021), after Wu et al. (arXiv 1605.06885).

    Args:
        sigmoid: The channels are overlapping regions.
        weight: Factor on each class, the background too, or on each region; None weighs all alike.
        label_smoothing: Share of the truth that is spread over all classes alike, from 0 to below 1.
        top_k_percent: Per cent of the voxels that count, the worst of the batch, at least one; None for all.

    Raises:
        UsageError: A knob is out of range, or, when called, `weight` has not one value for each channel.
    """

    pools_batch = True

    def __init__(
        self,
        *,
        sigmoid: bool,
        weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        top_k_percent: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"loss.label_smoothing needs a value from 0 to below 1, got {label_smoothing}")
        if top_k_percent is not None and not 0 < top_k_percent <= 100:
            raise UsageError(f"loss.top_k_percent needs a value above 0, at most 100, or null, got {top_k_percent}")
        self.sigmoid = sigmoid
        self.weight = checked_weight(weight)
        self.label_smoothing = label_smoothing
        self.top_k_percent = top_k_percent

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over voxels (and regions); target: class index (batch, 1, *spatial) or regions, one a channel."""
        logits = full_precision(logits)
        if self.weight is None and self.top_k_percent is None:
            return self._values(logits, target, reduction="mean")
        losses = self._values(logits, target, reduction="none")
        weights = torch.ones_like(losses)
        if self.weight is not None:
            factors = weight_like(self.weight, losses, classes=logits.shape[1])
            by_region = factors.reshape(-1, *[1] * (logits.ndim - 2)).expand_as(logits)
            weights = by_region if self.sigmoid else factors[target[:, 0].long()]
        if self.weight is not None and self.sigmoid:
            losses = losses * weights
        losses, weights = losses.flatten(), weights.flatten()
        if self.top_k_percent is not None:
            losses, worst = losses.topk(max(1, int(len(losses) * self.top_k_percent / 100)))
            weights = weights[worst]
        return losses.sum() / weights.sum().clamp_min(torch.finfo(losses.dtype).tiny)

    def _values(self, logits: Tensor, target: Tensor, *, reduction: str) -> Tensor:
        """Cross-entropy with smoothed truth, weighted for exclusive classes: the mean, or by voxel (and region)."""
        if self.sigmoid:
            truth = target.to(logits.dtype) * (1 - self.label_smoothing) + self.label_smoothing / 2
            return F.binary_cross_entropy_with_logits(logits, truth, reduction=reduction)
        weight = None if self.weight is None else weight_like(self.weight, logits, classes=logits.shape[1])
        return F.cross_entropy(
            logits,
            target[:, 0].long(),
            weight=weight,
            label_smoothing=self.label_smoothing,
            reduction=reduction,
        )
