"""What a normalisation is, and what becomes one when a dataset is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

# Intensities at annotated voxels of the training cases, an array a channel; they are read when this is called.
Foreground = Callable[[], tuple[Float[np.ndarray, "_"], ...]]


@runtime_checkable
class Normalisation(Protocol):
    """Brings the intensities of an image to a common scale."""

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the normalised image; the argument is left as it was."""
        ...

    def knobs(self) -> dict[str, Any]:
        """What distinguishes two normalisations, for the key of the cache."""
        ...


@runtime_checkable
class Scheme(Protocol):
    """Becomes a normalisation when the channels of a dataset and its training cases are known."""

    def fit(self, *, channels: tuple[str, ...], foreground: Foreground) -> Normalisation:
        """The normalisation for images of these channels."""
        ...
