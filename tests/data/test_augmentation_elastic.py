"""Elastic deformation: its field, and that image, labels, instances, boxes and places follow it alike."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import NdBSpline

from medexp.core.objects import Objects
from medexp.core.types import Annotation
from medexp.data.augmentation import Drawn, cut_patch
from medexp.data.augmentation.elastic import ElasticField

SPACINGS = {2: (1.0, 1.0), 3: (1.0, 0.8, 2.5)}
SIZES = {2: (40, 31), 3: (24, 21, 12)}


def half_mm(dims: int) -> tuple[float, ...]:
    return tuple((n - 1) / 2 * step for n, step in zip(SIZES[dims], SPACINGS[dims], strict=True))


def field(dims: int, *, seed: int = 0, largest_mm: float = 3.0, spacing_mm: float = 9.0) -> ElasticField:
    return ElasticField.drawn(seed=seed, largest_mm=largest_mm, spacing_mm=spacing_mm, half_mm=half_mm(dims))


def places_mm(dims: int) -> list[np.ndarray]:
    """Places of the voxels of a patch along each axis."""
    return [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SIZES[dims], SPACINGS[dims], strict=True)]


@pytest.mark.parametrize("dims", [2, 3])
def test_the_field_is_scipys_cubic_b_spline_of_its_control_points(dims):
    found = field(dims)
    # Control point 1 lies at the patch's edge.
    knots = [
        (np.arange(n + 4) - 3) * 9.0 - half for n, half in zip(found.control.shape[1:], found.half_mm, strict=True)
    ]
    grid = np.stack(np.meshgrid(*places_mm(dims), indexing="ij"), axis=-1)
    # scipy leaves the very end of the last interval to itself.
    inside = np.clip(grid, -np.array(found.half_mm), np.array(found.half_mm) - 1e-9)
    for axis, control in enumerate(found.control):
        expected = NdBSpline(tuple(knots), control, k=3)(inside)
        np.testing.assert_allclose(found.on_grid(places_mm(dims))[axis], expected, atol=1e-5)
        np.testing.assert_allclose(found.at(grid.reshape(-1, dims))[:, axis], expected.ravel(), atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_no_place_is_displaced_further_than_asked_and_none_is_folded(dims):
    for seed in range(20):
        displaced = field(dims, seed=seed, largest_mm=0.4 * 9, spacing_mm=9.0).on_grid(places_mm(dims))
        assert np.abs(displaced).max() <= 3.6
        # Jacobian of place + displacement by finite differences.
        steps = [np.gradient(component, *places_mm(dims)) for component in displaced]
        jacobian = np.moveaxis(np.array(steps), (0, 1), (-2, -1)) + np.eye(dims)
        assert np.linalg.det(jacobian).min() > 0


def test_a_wider_distance_of_control_points_is_smoother_by_its_factor():
    def roughness(spacing_mm: float) -> float:
        """Root mean square of the slope over that of the displacement."""
        ratios = []
        for seed in range(30):
            drawn = ElasticField.drawn(seed=seed, largest_mm=1.0, spacing_mm=spacing_mm, half_mm=(60.0, 60.0))
            displaced = drawn.on_grid([np.linspace(-60, 60, 121)] * 2)
            slopes = np.stack([np.diff(displaced, axis=1)[:, :, 1:], np.diff(displaced, axis=2)[:, 1:]])
            ratios.append([np.square(slopes).mean(), np.square(displaced).mean()])
        slope, displacement = np.mean(ratios, axis=0)
        return float(np.sqrt(slope / displacement))

    assert roughness(10.0) / roughness(20.0) == pytest.approx(2.0, rel=0.1)


@pytest.mark.parametrize("dims", [2, 3])
def test_undoing_finds_the_places_that_were_displaced(dims):
    for seed in range(10):
        found = field(dims, seed=seed, largest_mm=0.4 * 9)
        points = np.random.default_rng(seed).uniform(-1.2, 1.2, (200, dims)) * found.half_mm
        again = found.undone(points + found.at(points))
        np.testing.assert_allclose(again, points, atol=2e-3)
    assert field(dims).undone(np.zeros((0, dims))).shape == (0, dims)


DRAWN = {
    dims: Drawn(
        rotation_degrees=(15.0, -10.0, 20.0)[: 1 if dims == 2 else 3],
        scale=1.15,
        axes_flipped=(dims - 1,),
        elastic_mm=3.5,
        elastic_spacing_mm=9.0,
        elastic_seed=3,
    )
    for dims in (2, 3)
}
SHAPES = {2: (60, 50), 3: (40, 36, 22)}
CENTERS = {2: (30.0, 24.5), 3: (19.0, 18.5, 10.0)}


def cut(pixels: np.ndarray, known: Annotation, drawn: Drawn, dims: int) -> tuple[np.ndarray, Annotation]:
    patch, moved = cut_patch(
        pixels, known, center=CENTERS[dims], patch_size=SIZES[dims], drawn=drawn, spacing_mm=SPACINGS[dims]
    )
    return patch.numpy(), moved


def places_in_image(drawn: Drawn, dims: int) -> np.ndarray:
    """Where the image shows what each voxel of the patch shows: deformed, then turned and scaled, then flipped."""
    offsets = np.stack(np.meshgrid(*places_mm(dims), indexing="ij"))
    displaced = ElasticField.drawn(
        seed=drawn.elastic_seed, largest_mm=drawn.elastic_mm, spacing_mm=drawn.elastic_spacing_mm, half_mm=half_mm(dims)
    ).on_grid(places_mm(dims))
    moved = np.tensordot(drawn.matrix_mm(dims), offsets + displaced, axes=1)
    column = (-1, *[1] * dims)
    places = np.array(CENTERS[dims]).reshape(column) + moved / np.array(SPACINGS[dims]).reshape(column)
    return np.flip(places, [axis + 1 for axis in drawn.axes_flipped])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1)])
def test_image_and_labels_agree_with_scipy_at_the_displaced_places(dims, flips):
    random = np.random.default_rng(0)
    pixels = random.normal(size=(2, *SHAPES[dims])).astype(np.float32)
    mask = random.integers(0, 4, size=SHAPES[dims], dtype=np.uint8)
    for drawn in (DRAWN[dims], Drawn(elastic_mm=3.0, elastic_spacing_mm=9.0, axes_flipped=flips)):
        patch, known = cut(pixels, Annotation(mask=mask), drawn, dims)
        at = places_in_image(drawn, dims)
        expected = [ndimage.map_coordinates(channel, at, order=1, mode="grid-constant") for channel in pixels]
        np.testing.assert_allclose(patch, np.stack(expected), atol=3e-4)
        labels = ndimage.map_coordinates(mask, at, order=0, mode="grid-constant")
        assert (known.mask == labels).mean() > 0.99


@pytest.mark.parametrize("dims", [2, 3])
def test_places_and_boxes_follow_the_image(dims):
    random = np.random.default_rng(1)
    low = random.uniform(4, np.array(SHAPES[dims]) - 12, size=(60, dims))
    places = Objects.of(np.tile(low, (1, 2)), np.arange(60))
    boxes = Objects.of(np.concatenate([low, low + 6.0], axis=1), np.arange(60))
    at = places_in_image(DRAWN[dims], dims) + 0.5
    moved = cut(np.zeros((1, *SHAPES[dims]), dtype=np.float32), Annotation(objects=places), DRAWN[dims], dims)[
        1
    ].objects
    assert len(moved) > 5
    for place, number in zip(moved.centers, moved.labels, strict=True):
        shown = [ndimage.map_coordinates(axis, (place - 0.5)[:, None], order=1, mode="nearest")[0] for axis in at]
        # Between voxels the field bends; at the patch's edge the places are held.
        np.testing.assert_allclose(shown, low[number], atol=0.6)
    known = Annotation(objects=boxes)
    moved = cut(np.zeros((1, *SHAPES[dims]), dtype=np.float32), known, DRAWN[dims], dims)[1].objects
    assert len(moved) > 5
    for box_low, box_high, number in zip(moved.low, moved.high, moved.labels, strict=True):
        inside = (
            (at > boxes.low[number].reshape(-1, *[1] * dims)) & (at < boxes.high[number].reshape(-1, *[1] * dims))
        ).all(axis=0)
        voxels = np.argwhere(inside) + 0.5
        assert (voxels > box_low - 0.5).all()
        assert (voxels < box_high + 0.5).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_instances_follow_the_field_with_their_labels(dims):
    instances = np.zeros(SHAPES[dims], dtype=np.int32)
    for number, first in enumerate(range(8, 32, 6), start=1):
        instances[first : first + 4, 6:30] = number
    known = Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 3, 2: 8, 3: 3, 4: 8}))
    _, moved = cut(np.zeros((1, *SHAPES[dims]), dtype=np.float32), known, DRAWN[dims], dims)
    expected = ndimage.map_coordinates(instances, places_in_image(DRAWN[dims], dims), order=0, mode="grid-constant")
    left = np.unique(expected)[1:]
    assert moved.objects.labels.tolist() == [3 if number % 2 else 8 for number in left]
    assert ((moved.instances > 0) == (expected > 0)).mean() > 0.99


def test_the_field_keeps_its_size_in_millimetres_on_a_finer_grid():
    # The same patch in millimetres, sampled twice as finely: the same deformation.
    drawn = Drawn(elastic_mm=4.0, elastic_spacing_mm=12.0, elastic_seed=1)
    coarse_image = np.add.outer(np.arange(40.0), 3 * np.arange(40.0))[None].astype(np.float32)
    fine_image = np.add.outer(np.arange(80.0) / 2, 3 * np.arange(80.0) / 2)[None].astype(np.float32)
    coarse, _ = cut_patch(
        coarse_image, Annotation(), center=(20.0, 20.0), patch_size=(21, 21), drawn=drawn, spacing_mm=(2.0, 2.0)
    )
    fine, _ = cut_patch(
        fine_image, Annotation(), center=(40.0, 40.0), patch_size=(41, 41), drawn=drawn, spacing_mm=(1.0, 1.0)
    )
    np.testing.assert_allclose(fine[0, ::2, ::2], coarse[0], atol=1e-3)
