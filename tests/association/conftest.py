from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from medexp.core.geometry import Geometry
from medexp.core.tracks import Sequence


def _discs(
    frames: Mapping[int, Mapping[int, tuple[float, ...]]],
    *,
    radius: float = 2.2,
    shape: tuple[int, ...] = (32, 32),
    spacing_mm: tuple[float, ...] | None = None,
) -> Sequence:
    """A sequence of discs or balls: by frame and id, the centre in voxels."""
    grid = np.moveaxis(np.indices(shape), 0, -1)
    images = {}
    for frame, centres in frames.items():
        images[frame] = np.zeros(shape, dtype=np.int32)
        for identity, centre in centres.items():
            images[frame][((grid - np.array(centre)) ** 2).sum(axis=-1) <= radius**2] = identity
    geometry = Geometry.from_spacing(shape, spacing_mm or (1.0,) * len(shape))
    return Sequence("01", images, geometry)


@pytest.fixture
def discs() -> Callable[..., Sequence]:
    return _discs
