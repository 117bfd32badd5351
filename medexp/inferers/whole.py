"""Whole images through a network at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from medexp.core.errors import UsageError


class Whole:
    """The image as it is, without windows: for networks that say something of the whole image, or find objects in it.

    Args:
        divisible_by: Images are padded with zeros at the upper end of each axis to a multiple of this; maps are cut
            back to the image.

    Raises:
        UsageError: `divisible_by` is below 1.
    """

    def __init__(self, *, divisible_by: int) -> None:
        if divisible_by < 1:
            raise UsageError(f"inferer.divisible_by needs a value >= 1, got {divisible_by}")
        self.divisible_by = divisible_by

    def __call__(
        self, images: Float[Tensor, "batch channels *spatial"], predict: Callable[[Tensor], dict[str, Any]]
    ) -> dict[str, Any]:
        """The outputs of the network.

        Args:
            images: Whole images.
            predict: Outputs for images of any size.

        Returns:
            Outputs by name; maps on the grid of the images, all else as the network gives it.
        """
        size = images.shape[2:]
        missing = [-n % self.divisible_by for n in size]
        padding = [amount for axis in reversed(missing) for amount in (0, axis)]
        outputs = predict(F.pad(images, padding))
        inside = (slice(None), slice(None), *(slice(n) for n in size))
        return {
            name: value[inside] if isinstance(value, Tensor) and value.ndim == images.ndim else value
            for name, value in outputs.items()
        }
