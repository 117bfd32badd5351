"""How far predicted boxes are from those that they should be."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from monai.losses import BoxGIoULoss
from torch import Tensor, nn

from medexp.core.errors import UsageError


class BoxTerms(nn.Module):
    """Smooth L1 of offsets and generalised IoU of boxes, each with a weight; one with weight 0 is left out.

    Sources: R. Girshick, Fast R-CNN, ICCV 2015, eq. 3, for smooth L1, with `beta` from where the loss is straight; H.
    Rezatofighi et al., Generalized intersection over union, CVPR 2019, by MONAI's BoxGIoULoss.

    Args:
        smooth_l1: Weight of smooth L1.
        giou: Weight of 1 - GIoU.
        beta: Offset from which on smooth L1 is straight; 0 is L1.

    Raises:
        UsageError: A weight or beta is below 0, or both weights are 0.
    """

    def __init__(self, *, smooth_l1: float, giou: float, beta: float) -> None:
        super().__init__()
        if min(smooth_l1, giou) < 0 or not smooth_l1 + giou > 0:
            raise UsageError(f"box_loss needs weights >= 0, one above 0, got smooth_l1={smooth_l1} and giou={giou}")
        if beta < 0:
            raise UsageError(f"box_loss.beta needs a value >= 0, got {beta}")
        self.weights = {"smooth_l1": smooth_l1, "giou": giou}
        self.smooth_l1 = nn.SmoothL1Loss(reduction="sum", beta=beta)
        self.giou = BoxGIoULoss(reduction="sum")

    def forward(
        self,
        offsets: tuple[Float[Tensor, "n corners"], Float[Tensor, "n corners"]],
        boxes: tuple[Float[Tensor, "n corners"], Float[Tensor, "n corners"]],
    ) -> dict[str, Tensor]:
        """The weighted terms by name, each a sum over the boxes.

        Args:
            offsets: Predicted and wanted offsets of boxes from their anchors, as the network gives them.
            boxes: Predicted and wanted boxes, lower ends along all axes, then upper ends.

        Returns:
            The terms; 0 where there is no box.
        """
        terms: dict[str, Callable[[], Tensor]] = {
            "smooth_l1": lambda: self.smooth_l1(*offsets),
            "giou": lambda: self.giou(*boxes),
        }
        return {name: weight * terms[name]() for name, weight in self.weights.items() if weight > 0}
