"""Intensities of a case in its foreground, as many as it takes to know their distribution."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from medexp.core.types import Image

_VOXELS = 10_000


def foreground_intensities(image: Image) -> Float32[np.ndarray, "channels voxels"]:
    """Intensities at up to 10,000 voxels of the foreground, drawn with a fixed seed.

    The foreground is what the mask labels above 0, else the instances; where voxels are not annotated, the whole image.

    Args:
        image: A case as it was read.

    Returns:
        The same voxels in each channel; none where all is background.
    """
    annotation = image.annotation
    layer = None if annotation is None else annotation.instances if annotation.mask is None else annotation.mask
    flat = image.pixels.reshape(len(image.pixels), -1)
    places = np.arange(flat.shape[1]) if layer is None else np.flatnonzero(layer > 0)
    if len(places) > _VOXELS:
        places = np.sort(np.random.default_rng(0).choice(places, _VOXELS, replace=False))
    return flat[:, places].astype(np.float32)
