"""Whole images through a network of patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from monai.inferers import sliding_window_inference
from torch import Tensor

from medexp.core.errors import UsageError

Predict = Callable[[Tensor], dict[str, Tensor]]


class SlidingWindow:
    """Overlapping windows, blended and accumulated in fp32, with all heads kept.

    Args:
        window: Spatial shape of a window; images that are smaller are padded with zeros.
        overlap: Part of a window that the next one covers too, along each axis.
        batch_size: Windows that pass the network at once.
        blending: "gaussian" trusts the middle of a window more than its border; "constant" trusts all alike.
        low_memory: Stitch in main memory, by slabs along the last axis, whatever device the network runs on.
    """

    dense = True  # only maps can be blended

    def __init__(
        self, *, window: Sequence[int], overlap: float, batch_size: int, blending: str, low_memory: bool
    ) -> None:
        if min(window, default=0) < 1 or batch_size < 1:
            raise UsageError(
                f"inferer.window and inferer.batch_size need values >= 1, got {list(window)} and {batch_size}"
            )
        if not 0 <= overlap < 1:
            raise UsageError(f"inferer.overlap needs a value in [0, 1), got {overlap}")
        if blending not in ("gaussian", "constant"):
            raise UsageError(f"inferer.blending is gaussian or constant, got {blending}")
        self.window = tuple(window)
        self.overlap = overlap
        self.batch_size = batch_size
        self.blending = blending
        self.low_memory = low_memory

    def __call__(
        self, images: Float[Tensor, "batch channels *spatial"], predict: Predict
    ) -> dict[str, Float[Tensor, "batch maps *spatial"]]:
        """The maps of each head on the grid of the images, in fp32.

        Args:
            images: Whole images.
            predict: Maps of each head for a batch of windows.

        Returns:
            Blended maps by head; in main memory if `low_memory`.
        """
        channels: dict[str, int] = {}

        def stacked(windows: Tensor) -> Tensor:
            # One tensor for all heads: MONAI's buffered mode keeps only the first of several.
            outputs = predict(windows)
            channels.update({head: maps.shape[1] for head, maps in outputs.items()})
            return torch.cat([maps.float() for maps in outputs.values()], dim=1)

        # MONAI accumulates in the dtype of its input, and bf16 would lose two digits.
        blended = sliding_window_inference(
            images.float(),
            roi_size=self.window,
            sw_batch_size=self.batch_size,
            predictor=stacked,
            overlap=self.overlap,
            mode=self.blending,
            device=torch.device("cpu") if self.low_memory else None,
            sw_device=images.device,
            buffer_steps=1 if self.low_memory else None,
        )
        return dict(zip(channels, blended.split(list(channels.values()), dim=1), strict=True))
