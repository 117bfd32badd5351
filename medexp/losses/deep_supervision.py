"""Any loss on coarser maps too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.resample import resize_nearest


class DeepSupervision(nn.Module):
    """The weighted mean of a loss over the maps of several levels of a network (Lee et al., AISTATS 2015).

    Level k has weight decay^k, normalised to a sum of one as in nnU-Net; a single map is the loss itself. A target is
    brought to a coarser map's size by its nearest voxel.

    Args:
        loss: Returns terms by name for logits and target.
        decay: Weight of a level relative to the next finer one.
    """

    def __init__(self, *, loss: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 < decay <= 1:
            raise UsageError(f"deep supervision needs 0 < decay <= 1, got {decay}")
        self.loss = loss
        self.decay = decay

    def forward(
        self,
        levels: Sequence[Float[Tensor, "batch channels *_"]],
        target: Shaped[Tensor, "batch target_channels *spatial"],
    ) -> dict[str, Tensor]:
        """The terms by name; `levels` holds the finest map first."""
        if len(levels) == 1:
            terms: dict[str, Tensor] = self.loss(levels[0], target)
            return terms
        weights = [self.decay**level for level in range(len(levels))]
        total = dict[str, Tensor]()
        for weight, logits in zip(weights, levels, strict=True):
            resized = torch.stack([resize_nearest(sample, tuple(logits.shape[2:])) for sample in target])
            for name, term in self.loss(logits, resized).items():
                total[name] = total.get(name, logits.new_zeros(())) + weight / sum(weights) * term
        return total
