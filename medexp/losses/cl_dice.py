"""Soft clDice: do the centre lines of truth and prediction lie within each other?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.losses._maps import check_background
from medexp.losses._places import annotated_soft_and_truth

_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


class ClDice(nn.Module):
    """One minus the soft clDice of each image and class, averaged (Shit et al., CVPR 2021, algorithms 1 and 2).

    Centre lines are found by soft erosions and openings, which look at neighbours; voxels that nobody annotated lie
    outside the image for them. A part that is thicker than `iterations` steps on either side has no centre line, so
    that of thick objects nothing is asked, and an empty prediction has the loss 0: it is an auxiliary loss, for tubes,
    beside another (conf/loss/dice_cl_dice.yaml). MONAI's SoftclDiceLoss pools the classes, drops the first of
    overlapping regions with the background and knows no voxels without annotation; so the formula is written here.

    Args:
        sigmoid: The channels are overlapping regions.
        include_background: Count the background class among exclusive classes.
        iterations: Erosions after the first opening; about half the diameter of the thickest tube in voxels.
        smooth: Voxels added to what is found and to what is asked for, above 0.

    Raises:
        UsageError: A knob is out of range or has no meaning for regions.
    """

    auxiliary = True
    sees_places = True

    def __init__(self, *, sigmoid: bool, include_background: bool, iterations: int, smooth: float) -> None:
        super().__init__()
        check_background(sigmoid=sigmoid, include_background=include_background)
        if iterations < 0 or iterations != int(iterations):
            raise UsageError(f"loss.iterations needs a whole number from 0 on, got {iterations}")
        if smooth <= 0:
            raise UsageError(f"loss.smooth needs a value above 0, got {smooth}")
        self.sigmoid = sigmoid
        self.include_background = include_background
        self.iterations = int(iterations)
        self.smooth = smooth

    def forward(
        self,
        logits: Float[Tensor, "batch channels *spatial"],
        target: Shaped[Tensor, "batch target_channels *spatial"],
        *,
        valid: Bool[Tensor, "batch 1 *spatial"] | None = None,
    ) -> Float[Tensor, ""]:
        """Mean over images and classes.

        Args:
            logits: Scores of the classes or regions.
            target: Class index (batch, 1, *spatial) or regions, one a channel.
            valid: Which voxels are annotated; None for all.

        Returns:
            The loss.
        """
        soft, truth, known = annotated_soft_and_truth(
            logits, target, valid, sigmoid=self.sigmoid, include_background=self.include_background
        )
        precision = self._share(self._centre_lines(soft, known), truth)
        sensitivity = self._share(self._centre_lines(truth, known), soft)
        return (1 - 2 * precision * sensitivity / (precision + sensitivity)).mean()

    def _share(self, lines: Tensor, mask: Tensor) -> Float[Tensor, "batch classes"]:
        """How much of the lines lies within the mask."""
        inside, whole = ((value).flatten(2).sum(dim=2) + self.smooth for value in (lines * mask, lines))
        return inside / whole

    def _centre_lines(self, maps: Tensor, known: Tensor) -> Tensor:
        lines = F.relu(maps - _opened(maps, known)) * known
        for _ in range(self.iterations):
            maps = _eroded(maps, known)
            ridge = F.relu(maps - _opened(maps, known)) * known
            lines = lines + F.relu(ridge - lines * ridge)
        return lines


def _opened(maps: Tensor, known: Tensor) -> Tensor:
    """The largest value around of what is left after an erosion; 0 is less than any."""
    axes = maps.ndim - 2
    return _MAX_POOL[axes](_eroded(maps, known) * known, kernel_size=3, stride=1, padding=1)


def _eroded(maps: Tensor, known: Tensor) -> Tensor:
    """The smallest value of a voxel and its neighbours along each axis; 1 is more than any."""
    axes = maps.ndim - 2
    negative = -maps.masked_fill(~known, 1.0)
    smallest = [
        -_MAX_POOL[axes](
            negative,
            kernel_size=tuple(3 if axis == along else 1 for axis in range(axes)),
            stride=1,
            padding=tuple(1 if axis == along else 0 for axis in range(axes)),
        )
        for along in range(axes)
    ]
    return torch.stack(smallest).amin(dim=0)
