"""A small dataset of numpy files, which is read as any other."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image


@dataclass
class NumpySource:
    """Cases whose image and mask lie in .npy files of a folder.

    Attributes:
        folder: Where they lie.
        n_cases: How many; each is another random one.
        shape: Spatial shape.
    """

    folder: Path
    n_cases: int
    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] = ()
    name: str = "numpy"
    channels: tuple[str, ...] = ("a", "b")
    labels: dict[int, str] = field(default_factory=lambda: {0: "background", 1: "organ", 5: "lesion"})
    public: bool = True

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    def cases(self) -> list[Case]:
        self.folder.mkdir(parents=True, exist_ok=True)
        return [self._case(number) for number in range(self.n_cases)]

    def _case(self, number: int) -> Case:
        image, mask = self.folder / f"{number}_image.npy", self.folder / f"{number}_mask.npy"
        if not image.exists():
            random = np.random.default_rng(number)
            np.save(image, random.normal(size=(len(self.channels), *self.shape)).astype(np.float32))
            np.save(mask, random.choice([0, 1, 5], p=[0.8, 0.15, 0.05], size=self.shape).astype(np.int16))
        return Case(case_id=f"case_{number}", group=f"patient_{number}", images=(image,), references={"mask": mask})

    def read(self, case: Case) -> Image:
        return Image(
            case=case,
            pixels=np.load(case.images[0]),
            annotation=Annotation(mask=np.load(case.references["mask"])),
            geometry=Geometry.from_spacing(self.shape, self.spacing_mm or (1.0,) * len(self.shape)),
        )


@pytest.fixture
def numpy_source(tmp_path):
    """Makes a source of so many cases of a shape."""

    def make(n_cases: int = 6, shape: tuple[int, ...] = (12, 10), **knobs) -> NumpySource:
        return NumpySource(tmp_path / "source", n_cases, shape, **knobs)

    return make
