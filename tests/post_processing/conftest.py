from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass

ORGANS = (StructureClass("liver", 0, 1), StructureClass("spleen", 0, 3))


def _predict(
    *,
    mask: np.ndarray | None = None,
    probabilities: np.ndarray | None = None,
    classes: tuple[StructureClass, ...] = ORGANS,
    exclusive: bool = True,
    spacing: tuple[float, ...] | None = None,
    unit: str = "mm",
) -> Prediction:
    """A prediction of layers or of probabilities, with read-only arrays, so that a change in place is an error."""
    arrays = {"mask": mask, "probabilities": probabilities}
    for name, array in arrays.items():
        if array is not None:
            arrays[name] = array.copy()
            arrays[name].setflags(write=False)
    shape = next(array.shape[1:] for array in arrays.values() if array is not None)
    geometry = Geometry.from_spacing(shape, spacing or (1.0,) * len(shape), unit=unit)
    return Prediction("case_7", "patient_3", geometry, classes, exclusive=exclusive, **arrays)


@pytest.fixture
def predict() -> Callable[..., Prediction]:
    return _predict


@pytest.fixture(params=range(12))
def scattered(request) -> np.ndarray:
    """Many small parts of liver (1) and spleen (3) in one layer, in 2D or 3D."""
    rng = np.random.default_rng(request.param)
    dims = 2 + request.param % 2
    shape = tuple(int(size) for size in rng.integers(5, 12, dims))
    return (rng.choice([0, 1, 3], size=shape, p=[0.6, 0.2, 0.2]))[None].astype(np.uint8)
