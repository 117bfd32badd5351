"""Dice loss over exclusive classes or over overlapping regions."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float, Shaped
from monai.losses import DiceLoss
from torch import Tensor, nn

from medexp.losses._maps import check_background, check_smooth, checked_weight, full_precision, weight_like


class Dice(nn.Module):
    """One minus the soft Dice of each image and class, averaged (Milletari et al., 3DV 2016), by MONAI's DiceLoss.

    MONAI drops the first channel whenever the background is left out, the first of several regions too, and ignores a
    weight where one class is left; here regions all count, and a weight is honoured or refused.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes.
        squared_pred: Squares in the denominator (V-Net).
        jaccard: Jaccard index instead of Dice.
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.
        batch: One Dice over all voxels of the batch instead of one per image.
        weight: Factor on each class that counts, or on each region; None weighs all alike.
    """

    def __init__(
        self,
        *,
        sigmoid: bool,
        include_background: bool,
        squared_pred: bool,
        jaccard: bool,
        smooth_nr: float,
        smooth_dr: float,
        batch: bool,
        weight: Sequence[float] | None,
    ) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        check_smooth("Dice loss", smooth_nr=smooth_nr, smooth_dr=smooth_dr)
        self.pools_batch = batch
        self.weight = checked_weight(weight)
        self.dice = DiceLoss(
            include_background=include_background or sigmoid,
            to_onehot_y=not sigmoid,
            sigmoid=sigmoid,
            softmax=not sigmoid,
            squared_pred=squared_pred,
            jaccard=jaccard,
            reduction="none",
            smooth_nr=smooth_nr,
            smooth_dr=smooth_dr,
            batch=batch,
        )

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images and classes; arguments and errors as of `each`."""
        return self.each(logits, target).mean()

    def each(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, "groups classes"]:
        """The weighted loss of each image (or of the batch) and class.

        Args:
            logits: Scores of the classes or regions.
            target: Class index (batch, 1, *spatial) or regions, one a channel.

        Returns:
            The losses.

        Raises:
            UsageError: `weight` has not one value for each class.
        """
        logits = full_precision(logits)
        classes = logits.shape[1] - (0 if self.dice.include_background else 1)
        loss: Tensor = self.dice(logits, target.to(logits.dtype)).reshape(-1, classes)
        return loss if self.weight is None else loss * weight_like(self.weight, loss, classes=classes)
