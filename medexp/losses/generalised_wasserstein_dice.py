"""Dice for classes of which some are nearer to each other than others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Integer
from monai.losses import GeneralizedWassersteinDiceLoss
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import full_precision

_WEIGHTINGS = {"default": "default", "volume": "GDL"}


class GeneralisedWassersteinDice(nn.Module):
    """Generalised Wasserstein Dice loss (Fidon et al., BrainLes 2017) of each image, averaged, by MONAI's class.

    To take one class for another costs their distance; the background is the first class.

    Args:
        sigmoid: Must be false: the distances are of exclusive classes.
        distances: Distance between each two classes, the background first; they are divided by the largest. None: all
            1.
        weighting: "default" as in the paper, or "volume": each class by one over its voxels (Tilborghs et al., arXiv
            2007.15546, appendix).
        smooth_nr: Added to the numerator.
        smooth_dr: Added to the denominator.

    Raises:
        UsageError: The channels are regions, a knob is out of range, or, when called, `distances` are of another number
            of classes.
    """

    def __init__(
        self,
        *,
        sigmoid: bool,
        distances: Sequence[Sequence[float]] | None,
        weighting: str,
        smooth_nr: float,
        smooth_dr: float,
    ) -> None:
        super().__init__()
        if sigmoid:
            raise UsageError(
                "loss=generalised_wasserstein_dice needs exclusive classes, and this task has overlapping regions; "
                "choose task=semantic or loss=generalised_dice"
            )
        if weighting not in _WEIGHTINGS:
            raise UsageError(f"loss.weighting needs {' or '.join(_WEIGHTINGS)}, got {weighting}")
        # Without a smoothing term above, an image without foreground would have no loss to lower.
        if smooth_nr <= 0 or smooth_dr <= 0:
            raise UsageError(f"loss.smooth_nr and loss.smooth_dr need values above 0, got {smooth_nr} and {smooth_dr}")
        self.distances = None if distances is None else _checked(distances)
        self.weighting = weighting
        self.smooth_nr = smooth_nr
        self.smooth_dr = smooth_dr

    def forward(
        self, logits: Float[Tensor, "batch classes *spatial"], target: Integer[Tensor, "batch 1 *spatial"]
    ) -> Float[Tensor, ""]:
        """Mean over images; target: class index."""
        logits = full_precision(logits)
        classes = logits.shape[1]
        distances = 1 - torch.eye(classes) if self.distances is None else self.distances
        if len(distances) != classes:
            raise UsageError(f"loss.distances needs {classes} rows, one for each class, got {len(distances)}")
        monai = GeneralizedWassersteinDiceLoss(
            dist_matrix=distances.to(logits),
            weighting_mode=_WEIGHTINGS[self.weighting],
            smooth_nr=self.smooth_nr,
            smooth_dr=self.smooth_dr,
        )
        loss: Tensor = monai(logits, target)
        return loss


def _checked(distances: Sequence[Sequence[float]]) -> Float[Tensor, "classes classes"]:
    """The distances as a matrix; UsageError where they are none."""
    square = all(len(row) == len(distances) for row in distances)
    matrix = torch.tensor([list(map(float, row)) for row in distances]) if square else torch.zeros(0, 0)
    if not (matrix.numel() and (matrix.diagonal() == 0).all() and torch.equal(matrix, matrix.T) and matrix.min() >= 0):
        raise UsageError(
            "loss.distances needs a symmetric matrix of values >= 0 with zeros on its diagonal, "
            f"got {[list(row) for row in distances]}"
        )
    if not matrix.max() > 0:
        raise UsageError("loss.distances needs a value above 0, got zeros only")
    return matrix
