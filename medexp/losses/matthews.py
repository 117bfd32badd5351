"""Matthews correlation as a loss: absence counts beside presence."""

from __future__ import annotations

from jaxtyping import Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import Counts, check_background, soft_and_truth


class Matthews(nn.Module):
    """One minus Matthews' correlation of each image and class, averaged (Abhishek & Hamarneh, ISBI 2021, eq. 3 to 5).

    The correlation is undefined where a class is absent or everywhere, and MONAI's MCCLoss then gives 1 without a
    gradient, however good the prediction. Here `smooth` voxels of agreement are added on either side, so that the
    perfect prediction has the loss 0 always, and false positives of an absent class raise it.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes.
        smooth: Voxels added to the true positives and to the true negatives, above 0.
        batch: One correlation over all voxels of the batch instead of one per image.

    Raises:
        UsageError: A knob is out of range or has no meaning for regions.
    """

    def __init__(self, *, sigmoid: bool, include_background: bool, smooth: float, batch: bool) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        if smooth <= 0:
            raise UsageError(f"loss.smooth needs a value above 0, got {smooth}")
        self.sigmoid = sigmoid
        self.include_background = include_background
        self.smooth = smooth
        self.pools_batch = batch

    def forward(
        self, logits: Float[Tensor, "batch channels *spatial"], target: Shaped[Tensor, "batch target_channels *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images and classes; target: class index (batch, 1, *spatial) or regions, one a channel."""
        soft, truth = soft_and_truth(logits, target, sigmoid=self.sigmoid, include_background=self.include_background)
        counts = Counts.of(soft, truth, batch=self.pools_batch)
        tp, tn, fp, fn = counts.tp + self.smooth, counts.tn + self.smooth, counts.fp, counts.fn
        # Roots one by one: the product of four numbers of voxels leaves fp32's range.
        roots = (tp + fp).sqrt() * (tp + fn).sqrt() * (tn + fp).sqrt() * (tn + fn).sqrt()
        return (1 - (tp * tn - fp * fn) / roots).mean()
