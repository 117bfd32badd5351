"""Synthetic nuclei as fluorescence microscopy shows them, drawn on the user's own machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medexp.core.geometry import Geometry
from medexp.core.hashing import hash_plain
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources._drawn import check_grid, list_drawn, low_high, read_drawn, write_drawn
from medexp.data.sources._nuclei_recipe import INTERPHASE, MITOTIC, NucleiRecipe, draw_nuclei


class Nuclei:
    """Random pictures of bright nuclei on dark ground, many of which touch; in some there is none.

    There are two classes. Nuclei in interphase are roundish and smooth; mitotic ones are longer, thinner and speckled,
    and as bright as the others, so that a threshold does not tell them apart. Bright specks, too small to be a nucleus,
    lie in every kind of picture. Two nuclei never share a voxel, and each is in one piece. A case depends on the knobs,
    the seed and its own number alone, and only the set's own cases are drawn, when they are first listed.

    The annotation holds a mask of label ids, the instances, and their boxes (whose middles serve as points).

    Args:
        cache_dir: Folder for the drawn cases; each recipe has a folder of its own there.
        spatial_dims: 2 or 3.
        n_cases: Number of cases.
        shape: Voxels along each axis.
        spacing_mm: Distance between voxels along each axis; need not be the same for all.
        n_nuclei: Smallest and largest number of nuclei that are tried in a picture that is not empty; where there is no
            room they become fewer.
        empty: Share of pictures without a nucleus.
        touching: Share of nuclei that are laid against another one.
        radius_mm: Smallest and largest mean radius of a nucleus.
        mitotic: Share of mitotic nuclei.
        brightness: Smallest and largest mean brightness of a nucleus above the ground, which is 0.1.
        texture: Strength of the speckles of mitotic nuclei, as a share of their brightness.
        max_specks: A picture has 0 to this many specks.
        blur_mm: Standard deviation of the microscope's blur.
        noise: Standard deviation of the noise, independent in each voxel.
        seed: Seed of the whole set; 0 or more.

    Raises:
        UsageError: A knob has a value that cannot be drawn.
    """

    channels: tuple[str, ...] = ("fluorescence",)
    labels: Mapping[int, str] = {0: "background", INTERPHASE: "interphase", MITOTIC: "mitotic"}
    public = True

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str],
        spatial_dims: int,
        n_cases: int,
        shape: Sequence[int],
        spacing_mm: Sequence[float],
        n_nuclei: Sequence[int] = (4, 12),
        empty: float = 0.15,
        touching: float = 0.6,
        radius_mm: Sequence[float] = (5.0, 8.0),
        mitotic: float = 0.3,
        brightness: Sequence[float] = (0.4, 0.9),
        texture: float = 0.6,
        max_specks: int = 3,
        blur_mm: float = 0.8,
        noise: float = 0.06,
        seed: int = 0,
    ) -> None:
        check_grid("nuclei", spatial_dims=spatial_dims, n_cases=n_cases, shape=shape, spacing_mm=spacing_mm)
        fewest, most = low_high("nuclei", "n_nuclei", n_nuclei)
        self.spatial_dims = spatial_dims
        self.n_cases = n_cases
        self.recipe = NucleiRecipe(
            shape=tuple(shape),
            spacing_mm=tuple(map(float, spacing_mm)),
            n_nuclei=(int(fewest), int(most)),
            empty=empty,
            touching=touching,
            radius_mm=low_high("nuclei", "radius_mm", radius_mm),
            mitotic=mitotic,
            brightness=low_high("nuclei", "brightness", brightness),
            texture=texture,
            max_specks=max_specks,
            blur_mm=blur_mm,
            noise=noise,
            seed=seed,
        )
        self.name = f"nuclei_{spatial_dims}d"
        self.folder = Path(cache_dir).expanduser() / f"{self.name}-{hash_plain(self.recipe.as_dict())[:12]}"

    def cases(self) -> list[Case]:
        """All cases in the order of their numbers; those that are not on disk yet are drawn.

        DataError where the cache folder cannot be written.
        """
        return list_drawn(self.folder, self.n_cases, self._draw)

    def read(self, case: Case) -> Image:
        """Read one case; DataError where its file is gone, damaged, or of another shape."""
        shape = self.recipe.shape
        arrays = read_drawn(case, {"pixels": (1, *shape), "instances": shape, "labels": None})
        instances, labels = arrays["instances"], arrays["labels"]
        mask = np.concatenate([np.zeros(1, dtype=np.uint8), labels])[instances]
        objects = Objects.of_instances(instances, {k: int(label) for k, label in enumerate(labels, start=1)})
        return Image(
            case=case,
            pixels=arrays["pixels"],
            annotation=Annotation(mask=mask, instances=instances, objects=objects),
            geometry=Geometry.from_spacing(shape, self.recipe.spacing_mm),
        )

    def _draw(self, path: Path, index: int) -> None:
        pixels, instances, labels = draw_nuclei(self.recipe, index)
        write_drawn(path, {"pixels": pixels, "instances": instances, "labels": labels})
