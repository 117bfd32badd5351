"""Pictures of ellipses that a line cuts into two touching objects, drawn on the user's own machine."""

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
from medexp.data.sources._ellipse_recipe import EllipseRecipe, draw_pairs

_OBJECT = 1


class EllipsePairs:
    """Random pictures of pairs of touching half-ellipses, for methods that must tell touching objects apart.

    An ellipse with two random half-axes and a random orientation is cut by a straight line near its centre, and both
    sides are objects of one class, which touch along the whole cut. The line runs along an axis of the picture (within
    5 degrees), so that the halves' boxes hardly overlap, or obliquely (30 to 60 degrees), so that they overlap by much.
    Each half has its own even brightness on an even ground of 0.1; what parts the halves is a step of brightness of at
    least `contrast`, which blur and noise veil. Ellipses lie whole in the picture and do not touch each other.
    Intensities are rounded to 256 levels from 0 to 1, and what is brighter is cut off. A case depends on the knobs, the
    seed and its own number alone, and only the set's own cases are drawn, when they are first listed.

    The annotation holds a mask of label ids, the instances, and their boxes.

    Modelled on the set "Toy" of U. Schmidt et al., Cell detection with star-convex polygons, MICCAI 2018: 1000 pictures
    of 256 by 256 pixels with pairs of touching half-ellipses, blur and background noise, whose boxes overlap by very
    little or very much. How large, bright, blurred and noisy they are is not published, so figures on this set are of
    the same kind as the paper's, and not comparable with them.

    Args:
        cache_dir: Folder for the drawn cases; each recipe has a folder of its own there.
        n_cases: Number of cases.
        shape: Pixels along each axis.
        n_pairs: Smallest and largest number of pairs that are tried; where there is no room they become fewer.
        radius_px: Smallest and largest half-axis of an ellipse.
        oblique: Share of ellipses that are cut obliquely.
        off_centre: Largest distance of a cut from its ellipse's centre, as a share of the shorter half-axis.
        brightness: Smallest and largest brightness of a half above the ground.
        contrast: Smallest difference in brightness of the two halves of an ellipse.
        blur_px: Standard deviation of the blur.
        noise: Standard deviation of the noise, independent in each pixel.
        seed: Seed of the whole set; 0 or more.

    Raises:
        UsageError: A knob has a value that cannot be drawn.
    """

    channels: tuple[str, ...] = ("grey",)
    labels: Mapping[int, str] = {0: "background", _OBJECT: "half"}
    public = True
    spatial_dims = 2
    name = "ellipse_pairs"

    def __init__(
        self,
        *,
        cache_dir: str | os.PathLike[str],
        n_cases: int,
        shape: Sequence[int],
        n_pairs: Sequence[int] = (4, 9),
        radius_px: Sequence[float] = (12.0, 28.0),
        oblique: float = 0.5,
        off_centre: float = 0.2,
        brightness: Sequence[float] = (0.3, 0.8),
        contrast: float = 0.2,
        blur_px: float = 1.0,
        noise: float = 0.05,
        seed: int = 0,
    ) -> None:
        check_grid(self.name, spatial_dims=2, n_cases=n_cases, shape=shape, spacing_mm=(1.0, 1.0))
        fewest, most = low_high(self.name, "n_pairs", n_pairs)
        self.n_cases = n_cases
        self.recipe = EllipseRecipe(
            shape=(int(shape[0]), int(shape[1])),
            n_pairs=(int(fewest), int(most)),
            radius_px=low_high(self.name, "radius_px", radius_px),
            oblique=oblique,
            off_centre=off_centre,
            brightness=low_high(self.name, "brightness", brightness),
            contrast=contrast,
            blur_px=blur_px,
            noise=noise,
            seed=seed,
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
        arrays = read_drawn(case, {"pixels": (1, *shape), "instances": shape})
        instances = arrays["instances"]
        objects = Objects.of_instances(instances, dict.fromkeys(range(1, int(instances.max()) + 1), _OBJECT))
        return Image(
            case=case,
            pixels=arrays["pixels"].astype(np.float32) / 255,
            annotation=Annotation(mask=(instances > 0).astype(np.uint8), instances=instances, objects=objects),
            geometry=Geometry.from_spacing(shape, (1.0, 1.0), unit="px"),
        )

    def _draw(self, path: Path, index: int) -> None:
        pixels, instances = draw_pairs(self.recipe, index)
        write_drawn(path, {"pixels": pixels, "instances": instances})
