"""Synthetic sequences in which a slice alone does not tell its label, drawn on the user's own machine."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry
from medexp.core.hashing import hash_plain
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._drawn import check_grid, list_drawn, read_drawn, write_drawn

GENERATOR_VERSION = 1  # raise it whenever the same recipe would draw another picture
MARKED = 1

_DISC, _MARK = 0.5, 1.0  # brightness above the ground, which is 0
_DISC_RADIUS, _MARK_RADIUS = 0.26, 0.1  # in units of a quarter's shorter side


@dataclass(frozen=True)
class SequenceRecipe:
    """What a case looks like; together with the case's number it fixes every voxel.

    The attributes are the knobs of `PhantomSequence`, which documents them.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    lag: int
    noise: float
    seed: int

    def __post_init__(self) -> None:
        for knob, valid, wanted in (
            ("shape", min(self.shape[:2]) >= 16, "at least 16 voxels along the first two axes"),
            ("spacing_mm", all(0 < value < math.inf for value in self.spacing_mm), "positive lengths"),
            ("lag", 0 < abs(self.lag) < self.shape[2], "a whole number that is not 0 and less than the slices"),
            ("noise", 0 <= self.noise < math.inf, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise UsageError(f"{knob} of a sequence phantom needs {wanted}, got {getattr(self, knob)}")

    def as_dict(self) -> dict[str, Any]:
        """The knobs and the generator's version: two recipes draw the same cases if these are equal."""
        return {"version": GENERATOR_VERSION, **asdict(self)}


class PhantomSequence:
    """Sequences of slices with four discs each, one of which a small bright mark in another slice points out.

    Each quarter of a slice holds a disc at a random place. The discs look alike; the labelled one is that at whose
    place the slice `lag` slices earlier has a mark. Slices without such a slice have no label. Nothing in a slice tells
    which of its own discs is labelled: whoever sees one slice at a time reaches a Dice of .4 at most, by calling all
    four marked; whoever carries the mark on can be right. A case depends on the knobs, the seed and its own number.

    Args:
        cache_dir: Folder for the drawn cases; each recipe has a folder of its own there.
        n_cases: Number of cases.
        shape: Voxels along each axis; the slices follow each other along the third.
        spacing_mm: Distance between voxels along each axis.
        lag: From the slice of a mark to that of its disc; below 0 the mark comes after its disc.
        noise: Standard deviation of the noise, independent in each voxel; a disc's brightness is 0.5, a mark's 1.
        seed: Seed of the whole set; 0 or more.

    Raises:
        UsageError: A knob has a value that cannot be drawn.
    """

    spatial_dims = 3
    channels: tuple[str, ...] = ("intensity",)
    labels: Mapping[int, str] = {0: "background", MARKED: "marked"}
    public = True
    name = "phantom_sequence"

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str],
        n_cases: int,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        lag: int = 1,
        noise: float = 0.05,
        seed: int = 0,
    ) -> None:
        check_grid("a sequence phantom", spatial_dims=3, n_cases=n_cases, shape=shape, spacing_mm=spacing_mm)
        self.n_cases = n_cases
        self.recipe = SequenceRecipe(
            shape=tuple(shape), spacing_mm=tuple(map(float, spacing_mm)), lag=lag, noise=noise, seed=seed
        )
        self.folder = Path(cache_dir).expanduser() / f"{self.name}-{hash_plain(self.recipe.as_dict())[:12]}"

    def cases(self) -> list[Case]:
        """All cases in the order of their numbers; those that are not on disk yet are drawn.

        DataError where the cache folder cannot be written.
        """
        return list_drawn(self.folder, self.n_cases, self._draw)

    def read(self, case: Case) -> Image:
        """Read one case; DataError where its file is gone, damaged, or of another shape."""
        shape = self.recipe.shape
        arrays = read_drawn(case, {"pixels": (1, *shape), "mask": shape})
        return Image(
            case=case,
            pixels=arrays["pixels"],
            annotation=Annotation(mask=arrays["mask"]),
            geometry=Geometry.from_spacing(shape, self.recipe.spacing_mm),
        )

    def _draw(self, path: Path, index: int) -> None:
        pixels, mask = draw_sequence(self.recipe, index)
        write_drawn(path, {"pixels": pixels, "mask": mask})


def draw_sequence(
    recipe: SequenceRecipe, index: int
) -> tuple[Float32[np.ndarray, "1 a b c"], UInt8[np.ndarray, "a b c"]]:
    """Draw one case.

    Args:
        recipe: What the cases look like.
        index: Number of the case.

    Returns:
        Intensities and the label of each voxel.
    """
    rng = np.random.default_rng([recipe.seed, index])
    rows, columns, slices = recipe.shape
    side = min(rows, columns) / 2
    image, mask = np.zeros(recipe.shape), np.zeros(recipe.shape, dtype=np.uint8)
    corners = np.array([(a * rows / 2, b * columns / 2) for a in (0, 1) for b in (0, 1)])
    room = np.array([rows, columns]) / 2 - 2 * _DISC_RADIUS * side
    centres = corners + _DISC_RADIUS * side + room * rng.uniform(size=(slices, 4, 2)) - 0.5
    chosen = rng.integers(4, size=slices)
    for k, discs in enumerate(centres):
        for centre in discs:
            image[..., k][_around(centre, _DISC_RADIUS * side, (rows, columns))] = _DISC
    for k in range(max(0, recipe.lag), min(slices, slices + recipe.lag)):
        centre = centres[k, chosen[k]]
        mask[..., k][_around(centre, _DISC_RADIUS * side, (rows, columns))] = MARKED
        image[..., k - recipe.lag][_around(centre, _MARK_RADIUS * side, (rows, columns))] = _MARK
    noisy = image + recipe.noise * rng.normal(size=recipe.shape)
    return noisy[None].astype(np.float32), mask


def _around(centre: np.ndarray, radius: float, shape: tuple[int, int]) -> np.ndarray:
    """The pixels whose middles lie within a radius; the nearest one at least."""
    offsets = np.moveaxis(np.indices(shape), 0, -1) - centre
    distance = np.hypot(offsets[..., 0], offsets[..., 1])
    return distance <= max(radius, float(distance.min()))
