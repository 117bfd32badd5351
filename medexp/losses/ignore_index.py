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
    samples that have annotated voxels. This is exact for every loss that does not look at where a voxel lies. A loss of
    distances or neighbours says `sees_places`: it gets the maps of the samples that have annotated voxels as they lie,
    and which voxels are annotated as `valid`, (batch, 1, *spatial), and leaves out the others by a rule of its own.

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
        valid = target[:, :1] != UNANNOTATED
        some = valid.flatten(1).any(dim=1)
        if not some.any():
            # Zero for every parameter, even where the logits overflowed.
            zero = logits.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).sum() * 0.0
            return self.loss.each(lambda _: zero) if isinstance(self.loss, WeightedSum) else {"loss": zero}
        annotated = (logits[some], target[some], valid[some])
        if isinstance(self.loss, WeightedSum):
            return self.loss.each(lambda loss: _terms(loss, *annotated)["loss"])
        return _terms(self.loss, *annotated)


def _terms(loss: nn.Module, logits: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """The terms of a loss over the annotated voxels of samples each of which has some."""
    if getattr(loss, "sees_places", False):
        return as_terms(loss(logits, target, valid=valid))
    lists = [
        (sample_logits[:, known[0]][None], sample_target[:, known[0]][None])
        for sample_logits, sample_target, known in zip(logits, target, valid, strict=True)
    ]
    if getattr(loss, "pools_batch", False):
        all_logits, all_target = zip(*lists, strict=True)
        return as_terms(loss(torch.cat(all_logits, dim=2), torch.cat(all_target, dim=2)))
    samples = [as_terms(loss(*sample)) for sample in lists]
    return {name: torch.stack([sample[name] for sample in samples]).mean() for name in samples[0]}


def as_terms(value: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A loss that returns one number becomes one term, called "loss"."""
    return dict(value) if isinstance(value, Mapping) else {"loss": value}
