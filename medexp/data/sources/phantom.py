"""Synthetic organs with lesions, drawn on the user's own machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from medexp.core.geometry import Geometry
from medexp.core.hashing import hash_plain
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._drawn import check_grid, list_drawn, low_high, read_drawn, write_drawn
from medexp.data.sources._phantom_recipe import LESION, ORGAN, Recipe, draw_case


class Phantom:
    """Random bodies, each with one organ and, in most cases, lesions inside it.

    The organ is a dented ellipsoid. A rim of the body and several nodules are as bright as the organ, so a threshold
    does not find it; size, place and texture do. Lesions are darker or brighter than the organ. A case depends on the
    knobs, the seed and its own number alone: case 7 is the same in a set of 10 and of 1,000, in whatever order and by
    whichever process it is drawn. Only the set's own cases are drawn, when they are first listed.

    Args:
        cache_dir: Folder for the drawn cases; each recipe has a folder of its own there.
        spatial_dims: 2 or 3.
        n_cases: Number of cases.
        shape: Voxels along each axis.
        spacing_mm: Distance between voxels along each axis; need not be the same for all.
        n_channels: Number of image channels; they share the anatomy and differ in contrast, texture and noise.
        organ_contrast: How much brighter the organ is than the body, whose brightness is 0.5.
        texture: Standard deviation of the tissue's own variation, coarse in the body and fine in the organ.
        noise: Standard deviation of the noise, independent in each voxel.
        bias_field: Strength b of a smooth shading, which multiplies intensities by a factor from exp(-b) to exp(b).
        max_lesions: A case with lesions has 1 to this many.
        lesion_free: Share of cases without a lesion.
        lesion_radius_mm: Smallest and largest mean radius of a lesion.
        lesion_contrast: Smallest and largest difference in brightness between a lesion and the organ.
        seed: Seed of the whole set; 0 or more.

    Raises:
        UsageError: A knob has a value that cannot be drawn.
    """

    channels: tuple[str, ...]
    labels: Mapping[int, str] = {0: "background", ORGAN: "organ", LESION: "lesion"}
    public = True

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str],
        spatial_dims: int,
        n_cases: int,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        n_channels: int = 1,
        organ_contrast: float = 0.2,
        texture: float = 0.05,
        noise: float = 0.06,
        bias_field: float = 0.2,
        max_lesions: int = 3,
        lesion_free: float = 0.25,
        lesion_radius_mm: Sequence[float] = (2.0, 5.0),
        lesion_contrast: Sequence[float] = (0.25, 0.5),
        seed: int = 0,
    ) -> None:
        check_grid("a phantom", spatial_dims=spatial_dims, n_cases=n_cases, shape=shape, spacing_mm=spacing_mm)
        self.spatial_dims = spatial_dims
        self.n_cases = n_cases
        self.recipe = Recipe(
            shape=tuple(shape),
            spacing_mm=tuple(map(float, spacing_mm)),
            n_channels=n_channels,
            organ_contrast=organ_contrast,
            texture=texture,
            noise=noise,
            bias_field=bias_field,
            max_lesions=max_lesions,
            lesion_free=lesion_free,
            lesion_radius_mm=low_high("a phantom", "lesion_radius_mm", lesion_radius_mm),
            lesion_contrast=low_high("a phantom", "lesion_contrast", lesion_contrast),
            seed=seed,
        )
        self.name = f"phantom_{spatial_dims}d"
        self.channels = tuple(f"contrast_{channel}" for channel in range(n_channels))
        self.folder = Path(cache_dir).expanduser() / f"{self.name}-{hash_plain(self.recipe.as_dict())[:12]}"

    def cases(self) -> list[Case]:
        """All cases in the order of their numbers; those that are not on disk yet are drawn.

        DataError where the cache folder cannot be written.
        """
        return list_drawn(self.folder, self.n_cases, lambda path, index: _write_case(path, self.recipe, index))

    def read(self, case: Case) -> Image:
        """Read one case; DataError where its file is gone, damaged, or of another shape."""
        shape = self.recipe.shape
        arrays = read_drawn(case, {"pixels": (self.recipe.n_channels, *shape), "mask": shape})
        geometry = Geometry.from_spacing(shape, self.recipe.spacing_mm)
        annotation = Annotation(mask=arrays["mask"])
        return Image(case=case, pixels=arrays["pixels"], annotation=annotation, geometry=geometry)


def _write_case(path: Path, recipe: Recipe, index: int) -> None:
    pixels, mask = draw_case(recipe, index)
    write_drawn(path, {"pixels": pixels, "mask": mask})
