"""The look of a phantom case, and the pure function that draws it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.data.sources._drawn import has_none

GENERATOR_VERSION = 1  # raise it whenever the same recipe would draw another picture
ORGAN, LESION = 1, 2

_BODY_BRIGHTNESS = 0.5
_RIM_RADIUS = 0.86

Grid = Float[np.ndarray, "dims *spatial"]
Region = Bool[np.ndarray, "*spatial"]
Field = Float[np.ndarray, "*spatial"]


@dataclass(frozen=True)
class Recipe:
    """What a case looks like; together with the seed and the case's number it fixes every voxel.

    The attributes are the knobs of `phantom.Phantom`, which documents them.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    n_channels: int
    organ_contrast: float
    texture: float
    noise: float
    bias_field: float
    max_lesions: int
    lesion_free: float
    lesion_radius_mm: tuple[float, float]
    lesion_contrast: tuple[float, float]
    seed: int

    def __post_init__(self) -> None:
        for knob, valid, wanted in (
            ("shape", min(self.shape) >= 16, "at least 16 voxels along each axis"),
            ("spacing_mm", all(0 < value < math.inf for value in self.spacing_mm), "positive lengths"),
            ("n_channels", self.n_channels >= 1, "at least 1"),
            ("organ_contrast", math.isfinite(self.organ_contrast), "a finite number"),
            ("texture", self.texture >= 0, "0 or more"),
            ("noise", self.noise >= 0, "0 or more"),
            ("bias_field", self.bias_field >= 0, "0 or more"),
            ("max_lesions", self.max_lesions >= 1, "at least 1; for no lesion at all set lesion_free to 1"),
            ("lesion_free", 0 <= self.lesion_free <= 1, "a share between 0 and 1"),
            ("lesion_radius_mm", self.lesion_radius_mm[0] > 0, "[low, high] > 0"),
            ("seed", self.seed >= 0, "0 or more"),
        ):
            if not valid:
                raise UsageError(f"{knob} of a phantom needs {wanted}, got {getattr(self, knob)}")

    def as_dict(self) -> dict[str, Any]:
        """The knobs and the generator's version: two recipes draw the same cases if these are equal."""
        return {"version": GENERATOR_VERSION, **asdict(self)}


def draw_case(
    recipe: Recipe, index: int
) -> tuple[Float32[np.ndarray, "channels *spatial"], UInt8[np.ndarray, "*spatial"]]:
    """Draw one case.

    Shapes, lesions and noise have random streams of their own, so that the same anatomy can be compared at two noise
    levels.

    Args:
        recipe: What the cases look like.
        index: Number of the case.

    Returns:
        Intensities, about 0 in air and 0.5 in the body, and the label of each voxel.
    """
    shapes, lesions, appearance = (np.random.default_rng([recipe.seed, index, stream]) for stream in range(3))
    grid = _unit_grid(recipe.shape)
    body_radius = _ellipsoid(grid, shapes, centre=0.02, radius=(0.43, 0.48))
    organ = _organ(grid, body_radius, shapes)
    found = _lesions(recipe, index, organ, lesions)
    bright_tissue = _bright_tissue(grid, body_radius, organ, shapes)

    mask = organ.astype(np.uint8)
    for region, _ in found:
        mask[region] = LESION
    body = body_radius < 1
    channels = [
        _channel(recipe, number, body, bright_tissue, organ, found, appearance) for number in range(recipe.n_channels)
    ]
    return np.stack(channels).astype(np.float32), mask


def _unit_grid(shape: tuple[int, ...]) -> Grid:
    """Voxel centres in a field of view that spans -0.5 to 0.5 along each axis."""
    return np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n - 0.5 for n in shape), indexing="ij"))


def _ellipsoid(grid: Grid, rng: np.random.Generator, *, centre: float, radius: tuple[float, float]) -> Field:
    """Distance from a random centre in units of a randomly turned ellipsoid's radius: below 1 inside it."""
    dims = len(grid)
    shifted = grid - rng.uniform(-centre, centre, dims).reshape(-1, *[1] * dims)
    turn, _ = np.linalg.qr(rng.normal(size=(dims, dims)))
    scaled = turn / rng.uniform(*radius, dims)[:, None]
    return np.sqrt(np.square(np.tensordot(scaled, shifted, axes=1)).sum(axis=0))


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator, *, knots: int) -> Field:
    """A smooth random field with values in [-1, 1], interpolated from a coarse grid of normal numbers."""
    coarse = rng.normal(size=[knots] * len(shape))
    field = ndimage.zoom(coarse, [n / knots for n in shape], order=3, mode="nearest", grid_mode=True)
    return field / np.abs(field).max()


def _organ(grid: Grid, body_radius: Field, rng: np.random.Generator) -> Region:
    """An ellipsoid whose surface a low-frequency field pushes in and out, in one piece, inside the body."""
    radius = _ellipsoid(grid, rng, centre=0.10, radius=(0.19, 0.28))
    dented = radius + 0.22 * _smooth_field(body_radius.shape, rng, knots=4)
    pieces, _ = ndimage.label((dented < 1) & (body_radius < _RIM_RADIUS - 0.04))
    sizes = np.bincount(pieces.ravel())
    return pieces == 1 + int(np.argmax(sizes[1:]))


def _bright_tissue(grid: Grid, body_radius: Field, organ: Region, rng: np.random.Generator) -> Region:
    """Tissue as bright as the organ that is none: the body's rim, and nodules too small to be an organ."""
    tissue = body_radius > _RIM_RADIUS
    for _ in range(6):
        tissue |= _ellipsoid(grid, rng, centre=0.35, radius=(0.04, 0.08)) < 1
    margin = ndimage.binary_dilation(organ, iterations=2)
    return tissue & (body_radius < 1) & ~margin


def _lesions(recipe: Recipe, index: int, organ: Region, rng: np.random.Generator) -> list[tuple[Region, float]]:
    """Ellipsoids inside the organ with the brightness that each adds; every one keeps a rim of organ around it."""
    if has_none(recipe.seed, index, recipe.lesion_free):
        return []
    inside = ndimage.binary_erosion(organ)
    depth_mm = ndimage.distance_transform_edt(inside, sampling=recipe.spacing_mm)
    found = []
    for _ in range(int(rng.integers(1, recipe.max_lesions + 1))):
        radius_mm = rng.uniform(*recipe.lesion_radius_mm)
        centres = np.argwhere(depth_mm >= min(radius_mm, 0.7 * depth_mm.max()))
        offset = (np.moveaxis(np.indices(recipe.shape), 0, -1) - rng.choice(centres)) * recipe.spacing_mm
        radii_mm = radius_mm * rng.uniform(0.75, 1.25, len(recipe.shape))
        region = (np.square(offset / radii_mm).sum(axis=-1) <= 1) & inside
        found.append((region, float(rng.choice([-1, 1]) * rng.uniform(*recipe.lesion_contrast))))
    return found


def _channel(
    recipe: Recipe,
    channel: int,
    body: Region,
    bright_tissue: Region,
    organ: Region,
    lesions: list[tuple[Region, float]],
    rng: np.random.Generator,
) -> Field:
    """Intensities of one channel; in each further one the organ fades and flips its contrast, and lesions stand out."""
    contrast = recipe.organ_contrast * (-1) ** channel / (channel + 1)
    image = np.where(body, _BODY_BRIGHTNESS, 0.0)
    image[organ | bright_tissue] += contrast
    for region, brightness in lesions:
        image[region] = _BODY_BRIGHTNESS + contrast + brightness * (1 + channel / 2)
    image = ndimage.gaussian_filter(image, 0.5)  # voxels on a border hold a bit of both sides

    coarse, fine = (_texture(recipe, rng, share=share) for share in (1 / 10, 1 / 40))
    image += recipe.texture * np.where(organ, fine, coarse) * body
    image *= np.exp(recipe.bias_field * _smooth_field(recipe.shape, rng, knots=3))
    return image + recipe.noise * rng.normal(size=recipe.shape)


def _texture(recipe: Recipe, rng: np.random.Generator, *, share: float) -> Field:
    """Correlated noise of unit variance; its correlation length is a share of the longest side."""
    length_mm = share * max(n * mm for n, mm in zip(recipe.shape, recipe.spacing_mm, strict=True))
    field = ndimage.gaussian_filter(rng.normal(size=recipe.shape), [length_mm / mm for mm in recipe.spacing_mm])
    return field / field.std()
