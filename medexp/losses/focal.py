"""Focal loss, normalised so that it is cross-entropy at gamma 0."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from monai.losses import FocalLoss
from torch import Tensor, nn

from medexp.core.errors import UsageError


class Focal(nn.Module):
    """Focal loss of Lin et al. (ICCV 2017), eq. 4 and 5, by MONAI's FocalLoss.

    With exclusive classes MONAI's mean divides by the number of classes as well as by that of voxels; here the classes
    are summed, as in cross-entropy, so that `gamma=0` gives exactly that.

    Args:
        sigmoid: The channels are overlapping regions; the mean is over voxels and regions.
        gamma: Focusing exponent; 0 is cross-entropy.
        alpha: Weight of foreground, 1 - alpha that of background; None weighs all alike.
        include_background: Count the background class among exclusive classes.
    """

    def __init__(self, *, sigmoid: bool, gamma: float, alpha: float | None, include_background: bool) -> None:
        super().__init__()
        if sigmoid and not include_background:
            raise UsageError("loss.include_background=false has no meaning for overlapping regions; set it to true")
        if alpha is not None and not sigmoid and not include_background:
            raise UsageError(
                "loss.alpha weighs foreground against background; with include_background=false set it to null"
            )
        if gamma < 0:
            raise UsageError(f"loss.gamma needs a value >= 0, got {gamma}")
        self.sigmoid = sigmoid
        self.focal = FocalLoss(
            include_background=include_background,
            to_onehot_y=not sigmoid,
            gamma=gamma,
            alpha=alpha,
            reduction="none",
            use_softmax=not sigmoid,
        )

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over voxels; target: class index (batch, 1, *spatial) or regions (batch, channels, *spatial)."""
        loss: Tensor = self.focal(logits, target)
        return loss.mean() if self.sigmoid else loss.sum(dim=1).mean()
