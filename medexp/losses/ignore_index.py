"""Any loss without the voxels that nobody annotated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


class IgnoreIndex(nn.Module):
    """Evaluate a loss on annotated voxels only.

    Where `ignore_index` is set, the loss is taken of each sample's annotated voxels as a list, (1, channels, voxels), and
    averaged over the samples that have any. This is exact for every loss that does not look at where a voxel lies
    (cross-entropy, focal, Dice); a loss of distances or neighbours needs an ignore rule of its own.

    Args:
        loss: The loss; it returns a scalar or terms by name.
        ignore_index: Value of the target's first channel that marks a voxel without annotation; None turns it off.
    """

    def __init__(self, *, loss: nn.Module, ignore_index: int | None) -> None:
        super().__init__()
        self.loss = loss
        self.ignore_index = ignore_index

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> dict[str, Tensor]:
        """The terms of the loss by name."""
        if self.ignore_index is None:
            return as_terms(self.loss(logits, target))
        samples = []
        for sample_logits, sample_target in zip(logits, target, strict=True):
            valid = sample_target[0] != self.ignore_index
            if valid.any():
                samples.append(as_terms(self.loss(sample_logits[:, valid][None], sample_target[:, valid][None])))
        if not samples:
            return {"unannotated": logits.sum() * 0.0}
        return {name: torch.stack([sample[name] for sample in samples]).mean() for name in samples[0]}


def as_terms(value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A loss that returns one number becomes one term, called "loss"."""
    return dict(value) if isinstance(value, Mapping) else {"loss": value}
