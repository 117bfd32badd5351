"""The look of a picture of nuclei, and the pure function that draws it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Integer, UInt8
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.data.sources._drawn import has_none

GENERATOR_VERSION = 1  # raise it whenever the same recipe would draw another picture
INTERPHASE, MITOTIC = 1, 2

_TRIES = 30  # places that are tried for a nucleus before it is given up
_LARGEST_OVERLAP = 0.08  # share of a nucleus that a neighbour may cover
_LEAST_VOXELS = 12  # a nucleus of fewer, at the picture's edge, is not drawn
_GROUND = 0.1
_SPECK_RADIUS_MM = (0.6, 1.4)

Field = Float[np.ndarray, "*spatial"]
Region = Bool[np.ndarray, "*spatial"]
Places = Float[np.ndarray, "dims *spatial"]


@dataclass(frozen=True)
class NucleiRecipe:
    """What a picture looks like; together with the seed and the case's number it fixes every voxel.

    The attributes are the knobs of `nuclei.Nuclei`, which documents them.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    n_nuclei: tuple[int, int]
    empty: float
    touching: float
    radius_mm: tuple[float, float]
    mitotic: float
    brightness: tuple[float, float]
    texture: float
    max_specks: int
    blur_mm: float
    noise: float
    seed: int

    def __post_init__(self) -> None:
        for knob, valid, wanted in (
            ("shape", min(self.shape) >= 16, "at least 16 voxels along each axis"),
            ("spacing_mm", all(0 < value < math.inf for value in self.spacing_mm), "positive lengths"),
            ("n_nuclei", self.n_nuclei[0] >= 1, "[low, high], at least 1; for pictures without any see empty"),
            ("empty", 0 <= self.empty <= 1, "a share between 0 and 1"),
            ("touching", 0 <= self.touching <= 1, "a share between 0 and 1"),
            ("radius_mm", self.radius_mm[0] > 0 and math.isfinite(self.radius_mm[1]), "[low, high] > 0"),
            ("mitotic", 0 <= self.mitotic <= 1, "a share between 0 and 1"),
            ("brightness", self.brightness[0] > 0 and math.isfinite(self.brightness[1]), "[low, high] > 0"),
            ("texture", 0 <= self.texture <= 1, "a share of the brightness between 0 and 1"),
            ("max_specks", self.max_specks >= 0, "0 or more"),
            ("blur_mm", 0 <= self.blur_mm < math.inf, "0 or more"),
            ("noise", 0 <= self.noise < math.inf, "0 or more"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                got = getattr(self, knob)
                raise UsageError(f"{knob} of nuclei needs {wanted}, got {list(got) if isinstance(got, tuple) else got}")

    def as_dict(self) -> dict[str, Any]:
        """The knobs and the generator's version: two recipes draw the same cases if these are equal."""
        return {"version": GENERATOR_VERSION, **asdict(self)}


def draw_nuclei(
    recipe: NucleiRecipe, index: int
) -> tuple[Float32[np.ndarray, "1 *spatial"], Int32[np.ndarray, "*spatial"], UInt8[np.ndarray, "n"]]:
    """Draw one picture.

    Shapes and appearance have random streams of their own, so that the same nuclei can be compared at two noise levels.

    Args:
        recipe: What the pictures look like.
        index: Number of the case.

    Returns:
        Intensities, about 0.1 on the ground; the instances, numbered from 1; and the label of each.
    """
    shapes, appearance = (np.random.default_rng([recipe.seed, index, stream]) for stream in range(2))
    places = _places(recipe)
    instances, labels = np.zeros(recipe.shape, dtype=np.int32), []
    for _ in range(0 if has_none(recipe.seed, index, recipe.empty) else _draw_number(recipe.n_nuclei, shapes)):
        label = MITOTIC if shapes.random() < recipe.mitotic else INTERPHASE
        region = _next_to_the_others(recipe, places, instances, label, shapes)
        if region is not None:
            labels.append(label)
            instances[region] = len(labels)
    pixels = _intensities(recipe, places, instances, labels, appearance)
    return pixels[None].astype(np.float32), instances, np.array(labels, dtype=np.uint8)


def _draw_number(ends: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(ends[0], ends[1] + 1))


def _places(recipe: NucleiRecipe) -> Places:
    """Centre of each voxel in mm."""
    axes = [(np.arange(n) + 0.5) * mm for n, mm in zip(recipe.shape, recipe.spacing_mm, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _next_to_the_others(
    recipe: NucleiRecipe,
    places: Places,
    instances: Integer[np.ndarray, "*spatial"],
    label: int,
    rng: np.random.Generator,
) -> Region | None:
    """The voxels of a further nucleus, in one piece; it touches another one if told so. None where it finds no room."""
    touches = rng.random() < recipe.touching and instances.any()
    for _ in range(_TRIES):
        outline = _random_outline(recipe, label, rng)
        centre = _random_centre(recipe, rng)
        step = np.zeros(len(centre))
        if touches:
            centre = rng.choice(np.argwhere(instances)) * np.array(recipe.spacing_mm)
            step = _random_direction(len(centre), rng) * recipe.radius_mm[0] / 4
        region = _first_with_room(places, instances, outline, centre, step)
        if region is not None:
            return region
    return None


def _first_with_room(
    places: Places,
    instances: Integer[np.ndarray, "*spatial"],
    outline: Float[np.ndarray, "dims dims"],
    centre: Float[np.ndarray, "dims"],
    step: Float[np.ndarray, "dims"],
) -> Region | None:
    """The nucleus at the first place along a line where the others cover next to nothing of it."""
    end = places.reshape(len(centre), -1)[:, -1]
    for _ in range(2 * _TRIES if step.any() else 1):
        if not ((centre >= 0) & (centre <= end)).all():
            return None
        whole = _inside(places, outline, centre)
        free = whole & (instances == 0)
        if free.sum() >= max(_LEAST_VOXELS, (1 - _LARGEST_OVERLAP) * whole.sum()):
            return free if ndimage.label(free)[1] == 1 else None
        centre = centre + step
    return None


def _inside(places: Places, outline: Float[np.ndarray, "dims dims"], centre: Float[np.ndarray, "dims"]) -> Region:
    shifted = places - centre.reshape(-1, *[1] * len(centre))
    inside: Region = np.square(np.tensordot(outline, shifted, axes=1)).sum(axis=0) < 1
    return inside


def _random_outline(recipe: NucleiRecipe, label: int, rng: np.random.Generator) -> Float[np.ndarray, "dims dims"]:
    """Matrix that maps an ellipsoid to the unit ball; a mitotic nucleus is longer and thinner than the others."""
    dims = len(recipe.shape)
    radii_mm = rng.uniform(*recipe.radius_mm) * rng.uniform(0.85, 1.15, dims)
    if label == MITOTIC:
        radii_mm *= np.where(np.arange(dims) == 0, 1.1, 0.7)
    turn, _ = np.linalg.qr(rng.normal(size=(dims, dims)))
    return turn / radii_mm[:, None]


def _random_centre(recipe: NucleiRecipe, rng: np.random.Generator) -> Float[np.ndarray, "dims"]:
    return rng.uniform(0, np.array(recipe.shape) * recipe.spacing_mm)


def _random_direction(dims: int, rng: np.random.Generator) -> Float[np.ndarray, "dims"]:
    direction = rng.normal(size=dims)
    return direction / np.linalg.norm(direction)


def _intensities(
    recipe: NucleiRecipe,
    places: Places,
    instances: Integer[np.ndarray, "*spatial"],
    labels: list[int],
    rng: np.random.Generator,
) -> Field:
    """Ground, nuclei and specks as a microscope shows them: blurred, then noisy."""
    image = np.full(recipe.shape, _GROUND)
    fine, coarse = (
        _texture(recipe, rng, length_mm=length) for length in (0.2 * recipe.radius_mm[1], recipe.radius_mm[1])
    )
    for number, label in enumerate(labels, start=1):
        region = instances == number
        variation = recipe.texture * np.clip(fine, -1, 1) if label == MITOTIC else 0.3 * recipe.texture * coarse
        image[region] += rng.uniform(*recipe.brightness) * (1 + variation[region])
    for _ in range(int(rng.integers(0, recipe.max_specks + 1))):
        radius_mm, centre = rng.uniform(*_SPECK_RADIUS_MM), _random_centre(recipe, rng)
        speck = _inside(places, np.eye(len(centre)) / radius_mm, centre)
        image[speck] = np.maximum(image[speck], _GROUND + rng.uniform(*recipe.brightness))
    image *= 1 + 0.2 * _texture(recipe, rng, length_mm=3 * recipe.radius_mm[1])
    image = ndimage.gaussian_filter(image, [recipe.blur_mm / mm for mm in recipe.spacing_mm])
    return image + recipe.noise * rng.normal(size=recipe.shape)


def _texture(recipe: NucleiRecipe, rng: np.random.Generator, *, length_mm: float) -> Field:
    """Correlated noise of unit variance, at most 2 from zero."""
    field = ndimage.gaussian_filter(rng.normal(size=recipe.shape), [length_mm / mm for mm in recipe.spacing_mm])
    return np.clip(field / field.std(), -2, 2)
