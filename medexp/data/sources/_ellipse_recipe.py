"""The look of a picture of halved ellipses, and the pure function that draws it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8
from scipy import ndimage

from medexp.core.errors import UsageError

GENERATOR_VERSION = 1  # raise it whenever the same recipe would draw another picture

_TRIES = 60  # ellipses that are tried for a pair before it is given up
_SPARE_PX = 3  # between two ellipses, and between an ellipse and the picture's edge
_GROUND = 0.1
_OBLIQUE_DEG, _ALONG_DEG = (30.0, 60.0), (-5.0, 5.0)  # angle of a cut to an axis of the picture

Away = Float[np.ndarray, "n 2"]
Pixels = list[tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class EllipseRecipe:
    """What a picture looks like; together with the seed and the case's number it fixes every pixel.

    The attributes are the knobs of `ellipse_pairs.EllipsePairs`, which documents them.
    """

    shape: tuple[int, int]
    n_pairs: tuple[int, int]
    radius_px: tuple[float, float]
    oblique: float
    off_centre: float
    brightness: tuple[float, float]
    contrast: float
    blur_px: float
    noise: float
    seed: int

    def __post_init__(self) -> None:
        span = self.brightness[1] - self.brightness[0]
        widest = min(self.shape) / 2 - _SPARE_PX - 1
        for knob, valid, wanted in (
            ("shape", min(self.shape) >= 32, "at least 32 pixels along each axis"),
            ("n_pairs", self.n_pairs[0] >= 1, "[low, high], at least 1"),
            ("radius_px", 4 <= self.radius_px[0] <= self.radius_px[1] <= widest, f"[low, high], from 4 to {widest}"),
            ("oblique", 0 <= self.oblique <= 1, "a share between 0 and 1"),
            ("off_centre", 0 <= self.off_centre <= 0.5, "a share between 0 and 0.5"),
            ("brightness", self.brightness[0] > 0 and self.brightness[1] + _GROUND <= 1, "[low, high] above 0 to 0.9"),
            ("contrast", 0 <= self.contrast <= span / 2, f"at most half of the range of brightness, {span / 2:g}"),
            ("blur_px", 0 <= self.blur_px < math.inf, "0 or more"),
            ("noise", 0 <= self.noise < math.inf, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                got = getattr(self, knob)
                told = list(got) if isinstance(got, tuple) else got
                raise UsageError(f"{knob} of ellipse_pairs needs {wanted}, got {told}")

    def as_dict(self) -> dict[str, Any]:
        """The knobs and the generator's version: two recipes draw the same cases if these are equal."""
        return {"version": GENERATOR_VERSION, **asdict(self)}


def draw_pairs(
    recipe: EllipseRecipe, index: int
) -> tuple[UInt8[np.ndarray, "1 rows columns"], Int32[np.ndarray, "rows columns"]]:
    """Draw one picture.

    Shapes and appearance have random streams of their own, so that the same pairs can be compared at two noise levels.

    Args:
        recipe: What the pictures look like.
        index: Number of the case.

    Returns:
        Intensities from 0 to 255; and the instances, numbered from 1, the halves of a pair one after the other.
    """
    shapes, appearance = (np.random.default_rng([recipe.seed, index, stream]) for stream in range(2))
    instances, image = np.zeros(recipe.shape, dtype=np.int32), np.full(recipe.shape, _GROUND)
    for _ in range(int(shapes.integers(recipe.n_pairs[0], recipe.n_pairs[1] + 1))):
        halves, greys = _next_pair(recipe, instances, shapes), _greys(recipe, appearance)
        for half, grey in zip(halves, greys, strict=False):
            instances[half] = instances.max() + 1
            image[half] += grey
    image = ndimage.gaussian_filter(image, recipe.blur_px) + recipe.noise * appearance.normal(size=recipe.shape)
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)[None], instances


def _next_pair(recipe: EllipseRecipe, instances: Int32[np.ndarray, "rows columns"], rng: np.random.Generator) -> Pixels:
    """The pixels of the two halves of a further ellipse; nothing where it finds no room."""
    for _ in range(_TRIES):
        radii, turn = rng.uniform(*recipe.radius_px, 2), rng.uniform(0, math.pi)
        margin = radii.max() + _SPARE_PX
        centre = rng.uniform(margin, np.array(recipe.shape) - 1 - margin)
        low, high = np.floor(centre - margin).astype(int), np.ceil(centre + margin).astype(int) + 1
        around = np.argwhere(np.ones(high - low, dtype=bool)) + low
        away = around - centre
        cut = _distance_from_cut(recipe, away, radii.min(), rng)
        if not instances[tuple(around[_in_ellipse(away, radii + _SPARE_PX, turn)].T)].any():
            ellipse = _in_ellipse(away, radii, turn)
            return [tuple(around[ellipse & side].T) for side in (cut < 0, cut >= 0)]
    return []


def _in_ellipse(away: Away, radii: Float[np.ndarray, "2"], turn: float) -> Bool[np.ndarray, "n"]:
    along = (math.cos(turn) * away[:, 0] + math.sin(turn) * away[:, 1]) / radii[0]
    across = (math.cos(turn) * away[:, 1] - math.sin(turn) * away[:, 0]) / radii[1]
    inside: np.ndarray = along**2 + across**2 <= 1
    return inside


def _distance_from_cut(
    recipe: EllipseRecipe, away: Away, shortest_px: float, rng: np.random.Generator
) -> Float[np.ndarray, "n"]:
    """Distance of each pixel from a random line near the centre, negative on one side of it."""
    angle = rng.integers(0, 4) * 90 + rng.uniform(*(_OBLIQUE_DEG if rng.random() < recipe.oblique else _ALONG_DEG))
    offset_px = rng.uniform(-recipe.off_centre, recipe.off_centre) * shortest_px
    return math.cos(math.radians(angle)) * away[:, 0] + math.sin(math.radians(angle)) * away[:, 1] - offset_px


def _greys(recipe: EllipseRecipe, rng: np.random.Generator) -> tuple[float, float]:
    """Brightness of two halves above the ground, which differ by the contrast at least."""
    while True:
        first, second = rng.uniform(*recipe.brightness, 2)
        if abs(first - second) >= recipe.contrast:
            return float(first), float(second)
