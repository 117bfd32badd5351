"""Any loss without the voxels that nobody annotated."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.types import UNANNOTATED
from medexp.losses.weighted_sum import WeightedSum


class IgnoreIndex(nn.Module):
    """Evaluate a loss on annotated voxels only.

    The annotated voxels become a list, (1, channels, voxels). A loss that says `pools_batch` (cross-entropy, focal,
    Dice over the batch) gets one list of the whole batch; any other gets one per sample, and the mean is over the
    samples that have annotated voxels. This is exact for every loss that does not look at where a voxel lies; a loss of
    distances or neighbours needs an ignore rule of its own.

    Args:
        loss: The loss; it returns a scalar or terms by name.
        ignore_index: The task's label id for voxels that nobody annotated, whatever its value: targets hold
            `UNANNOTATED` there, since a label id may be a class index too. None turns the rule off.
    """

    def __init__(self, *, loss: nn.Module, ignore_index: int | None) -> None:
        super().__init__()
        self.loss = loss
        self.ignore_index = ignore_index

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> dict[str, Tensor]:
        """The terms of the loss by name; zero where no voxel of the batch is annotated."""
        if self.ignore_index is None:
            return as_terms(self.loss(logits, target))
        lists = [
            (sample_logits[:, valid][None], sample_target[:, valid][None])
            for sample_logits, sample_target in zip(logits, target, strict=True)
            if (valid := sample_target[0] != UNANNOTATED).any()
        ]
        if not lists:
            # Zero for every parameter, even where the logits overflowed.
            zero = logits.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum() * 0.0
            return self.loss.each(lambda _: zero) if isinstance(self.loss, WeightedSum) else {"loss": zero}
        if isinstance(self.loss, WeightedSum):
            return self.loss.each(lambda loss: _mean_terms(loss, lists)["loss"])
        return _mean_terms(self.loss, lists)


def _mean_terms(loss: nn.Module, lists: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """The terms of a loss over lists of voxels, (1, channels, voxels) of logits and of target for each sample."""
    if getattr(loss, "pools_batch", False):
        logits, target = zip(*lists, strict=True)
        return as_terms(loss(torch.cat(logits, dim=2), torch.cat(target, dim=2)))
    samples = [as_terms(loss(logits, target)) for logits, target in lists]
    return {name: torch.stack([sample[name] for sample in samples]).mean() for name in samples[0]}


def as_terms(value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A loss that returns one number becomes one term, called "loss"."""
    return dict(value) if isinstance(value, Mapping) else {"loss": value}
