"""One training patch: its intensities and all that is known of it, moved alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medexp.core.types import Annotation
from medexp.data.annotation import renumbered
from medexp.data.augmentation.cut import cut_of
from medexp.data.augmentation.drawn import Drawn
from medexp.data.augmentation.intensity import change_intensities


def cut_patch(
    pixels: Float[np.ndarray, "channels *spatial"],
    annotation: Annotation,
    *,
    center: Sequence[float],
    patch_size: tuple[int, ...],
    drawn: Drawn,
    spacing_mm: Sequence[float],
) -> tuple[Tensor, Annotation]:
    """Cut one patch, reading only the voxels that it needs; outside the image lie zeros.

    Args:
        pixels: Image, possibly memory-mapped.
        annotation: What is known of it, on the same grid.
        center: Centre of the patch in voxels.
        patch_size: Spatial shape of the result.
        drawn: Random parameters of the sample.
        spacing_mm: Spacing of the image's grid.

    Returns:
        The patch (channels, *patch_size) in fp32 and its annotation; of objects those whose centre it holds.
    """
    cut = cut_of(pixels.shape[1:], center=center, patch_size=patch_size, drawn=drawn, spacing_mm=spacing_mm)
    patch = cut.intensities(pixels)
    change_intensities(patch, drawn.intensities)
    mask, instances = (None if ids is None else cut.ids(ids) for ids in (annotation.mask, annotation.instances))
    objects = annotation.objects
    if instances is not None and objects is not None:
        instances, objects = renumbered(instances, objects)
    elif objects is not None:
        objects, _ = cut.objects(objects).clipped(patch_size)
    return torch.from_numpy(patch), replace(annotation, mask=mask, instances=instances, objects=objects)
