"""Cross-entropy over exclusive classes or over overlapping regions."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """Mean cross-entropy per voxel: of the softmax for exclusive classes, of each sigmoid for overlapping regions.

    MONAI's DiceCELoss takes the softmax form for several overlapping regions too; here the regions get the binary form.

    Args:
        sigmoid: The channels are overlapping regions.
    """

    pools_batch = True

    def __init__(self, *, sigmoid: bool) -> None:
        super().__init__()
        self.sigmoid = sigmoid

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over voxels (and regions); target: class index (batch, 1, *spatial) or regions, one a channel."""
        if self.sigmoid:
            return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype))
        return F.cross_entropy(logits, target[:, 0].long())
