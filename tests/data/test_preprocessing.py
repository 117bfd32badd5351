from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from scipy.spatial.transform import Rotation
from torch import nn

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.types import Annotation, Batch, Case, Image
from medexp.data.preprocessing import Preprocessing, Window, ZScore
from medexp.tasks.semantic import SemanticSegmentation

CASE = Case("liver_1", "patient_1", (Path("image.nii"),))
AS_IS = Window(lower=0.0, upper=1.0)


def image_of(pixels: np.ndarray, affine: np.ndarray, mask: np.ndarray | None = None) -> Image:
    annotation = None if mask is None else Annotation(mask=mask)
    return Image(CASE, pixels, annotation, Geometry(pixels.shape[1:], affine))


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, size=shape).astype(np.float32)


def test_zscore_agrees_with_scipy_channel_by_channel():
    pixels = random_pixels(2, 5, 6, 7)
    before = pixels.copy()
    normalised = ZScore()(pixels)
    for channel, expected in zip(normalised, pixels, strict=True):
        np.testing.assert_allclose(channel, stats.zscore(expected.astype(np.float64), axis=None), atol=1e-5)
    assert normalised.dtype == np.float32
    assert np.array_equal(pixels, before)


def test_zscore_of_nonzero_voxels_leaves_the_others_at_zero():
    pixels = random_pixels(1, 8, 8)
    pixels[0, :3] = 0
    normalised = ZScore(nonzero=True)(pixels)
    assert (normalised[0, :3] == 0).all()
    np.testing.assert_allclose(normalised[0, 3:], stats.zscore(pixels[0, 3:].astype(np.float64), axis=None), atol=1e-5)


@pytest.mark.parametrize("nonzero", [False, True])
@pytest.mark.parametrize("value", [0.0, 1000.25])
def test_zscore_of_a_constant_channel_is_zero(value, nonzero):
    assert (ZScore(nonzero=nonzero)(np.full((1, 4, 4), value, dtype=np.float32)) == 0).all()


def test_zscore_of_large_values_keeps_its_precision():
    pixels = random_pixels(1, 32, 32) + np.float32(30_000)
    expected = stats.zscore(pixels[0].astype(np.float64), axis=None)
    np.testing.assert_allclose(ZScore()(pixels)[0], expected, atol=1e-4)


def test_window_maps_its_limits_to_zero_and_one_and_clips():
    pixels = np.array([[[-2000.0, -100.0, 75.0, 250.0, 3000.0]]], dtype=np.float32)
    assert Window(lower=-100.0, upper=250.0)(pixels).tolist() == [[[0.0, 0.0, 0.5, 1.0, 1.0]]]


def test_an_empty_window_is_refused():
    with pytest.raises(UsageError, match=r"lower < upper, got lower=1\.0, upper=1\.0"):
        Window(lower=1.0, upper=1.0)


def test_without_orientation_and_spacing_the_grid_stays():
    pixels, mask = np.clip(random_pixels(1, 4, 5), 0, 1), np.arange(20, dtype=np.int16).reshape(4, 5)
    affine = np.diag([-2.0, 3.0, 1.0])
    prepared = Preprocessing(orient=False, spacing_mm=None, normalisation=AS_IS)(image_of(pixels, affine, mask))
    assert np.array_equal(prepared.pixels, pixels)
    assert np.array_equal(prepared.annotation.mask, mask)
    assert prepared.placement == Placement.identity((4, 5))


def test_an_image_without_reference_is_prepared_too():
    prepared = Preprocessing(orient=True, spacing_mm=(2.0, 2.0), normalisation=AS_IS)(
        image_of(random_pixels(1, 4, 5), np.eye(3))
    )
    assert prepared.annotation.mask is None
    assert prepared.pixels.shape == (1, 2, 2)


def test_pixels_and_labels_are_oriented_and_interpolated_as_by_scipy():
    pixels, mask = random_pixels(2, 6, 9, 4), np.random.default_rng(1).integers(0, 9, (6, 9, 4), dtype=np.int16)
    affine = np.zeros((4, 4))
    affine[1, 0], affine[2, 1], affine[0, 2], affine[3, 3] = -1.0, 0.5, 4.0, 1.0
    preprocessing = Preprocessing(
        orient=True, spacing_mm=(2.0, 1.0, 1.5), normalisation=Window(lower=-99.0, upper=99.0)
    )
    prepared = preprocessing(image_of(pixels, affine, mask))
    # World x runs along the image's last axis, y against its first, z along its second.
    oriented = (pixels.transpose(0, 3, 1, 2)[:, :, ::-1] + 99) / 198
    factors = (8 / 4, 6 / 6, 3 / 9)
    expected = [ndimage.zoom(channel, factors, order=1, mode="nearest", grid_mode=True) for channel in oriented]
    np.testing.assert_allclose(prepared.pixels, np.stack(expected), atol=1e-5)
    labels = ndimage.zoom(mask.transpose(2, 0, 1)[:, ::-1], factors, order=0, mode="nearest", grid_mode=True)
    assert np.array_equal(prepared.annotation.mask, labels)


def oblique(order: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Affine whose axes are permuted, flipped, and in 3D tilted by ten degrees about each axis."""
    dims = len(order)
    direction = np.zeros((dims, dims))
    direction[list(order), range(dims)] = signs
    if dims == 3:
        direction = Rotation.from_euler("xyz", [10.0] * 3, degrees=True).as_matrix() @ direction
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = direction * spacing
    affine[:dims, dims] = -20.0
    return affine


def ball(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """A ball of a quarter of the field of view, far from the middle."""
    extent = np.array(shape) * spacing
    position = (np.moveaxis(np.indices(shape), 0, -1) + 0.5) * spacing
    return (np.linalg.norm(position - extent * 0.35, axis=-1) < extent.min() / 4).astype(np.int16)


GRIDS = [
    (order, signs, shape, spacing, target)
    for shape, spacing, target in [
        ((44, 30), (0.7, 1.6), (1.1, 0.9)),
        ((40, 34, 15), (0.8, 1.1, 3.0), (1.0, 1.5, 2.0)),
    ]
    for order in itertools.permutations(range(len(shape)))
    for signs in [(1,) * len(shape), (-1,) * len(shape), (-1, 1, -1)[: len(shape)]]
]


@pytest.mark.parametrize(("order", "signs", "shape", "spacing", "target"), GRIDS)
def test_what_the_network_sees_comes_back_onto_the_reference(order, signs, shape, spacing, target):
    affine, mask = oblique(order, signs, spacing), ball(shape, spacing)
    image = image_of(mask[None].astype(np.float32), affine, mask)
    prepared = Preprocessing(orient=True, spacing_mm=target, normalisation=AS_IS)(image)
    logits = (
        torch.from_numpy(
            np.stack([prepared.annotation.mask == 0, prepared.annotation.mask == 1])[None] * np.float32(40)
        )
        - 20
    )
    task = SemanticSegmentation(
        labels={0: "background", 1: "ball"},
        loss=nn.Identity(),
        regions=None,
        ignore_index=None,
        softmax=True,
        sigmoid=False,
    )
    batch = Batch(
        images=torch.from_numpy(prepared.pixels)[None],
        targets=None,
        case_ids=("liver_1",),
        images_read=(image,),
        placements=(prepared.placement,),
    )
    (prediction,) = task.decode({"semantic": logits}, batch)
    (reference,) = task.reference(batch)
    decoded = prediction.probabilities.argmax(axis=0)
    assert np.array_equal(prediction.geometry.affine, reference.geometry.affine)
    assert np.array_equal(reference.mask[0], mask)
    assert decoded.shape == mask.shape
    offset = np.subtract(ndimage.center_of_mass(decoded), ndimage.center_of_mass(mask))
    offset_mm = affine[:-1, :-1] @ offset
    assert np.linalg.norm(offset_mm) < min(spacing) / 2
    overlap = 2 * np.logical_and(decoded, mask).sum() / (decoded.sum() + mask.sum())
    assert overlap > 0.93


def test_a_mapped_image_that_may_not_be_written_is_prepared(tmp_path):
    np.save(tmp_path / "pixels.npy", random_pixels(1, 4, 5))
    pixels = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    prepared = Preprocessing(orient=True, spacing_mm=None, normalisation=ZScore())(image_of(pixels, np.eye(3)))
    np.testing.assert_allclose(prepared.pixels, ZScore()(np.array(pixels)))


def test_spacing_of_another_dimension_is_refused_by_case():
    with pytest.raises(UsageError, match=r"spacing_mm needs 2 values for liver_1, got \(1\.0, 1\.0, 1\.0\)"):
        Preprocessing(orient=False, spacing_mm=(1.0, 1.0, 1.0), normalisation=AS_IS)(
            image_of(random_pixels(1, 4, 5), np.eye(3))
        )


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, -1.0)])
def test_spacing_needs_positive_values(spacing):
    with pytest.raises(UsageError, match="needs positive values"):
        Preprocessing(orient=False, spacing_mm=spacing, normalisation=AS_IS)


def test_every_knob_distinguishes_two_preprocessings():
    made = [
        Preprocessing(orient=False, spacing_mm=None, normalisation=ZScore()),
        Preprocessing(orient=True, spacing_mm=None, normalisation=ZScore()),
        Preprocessing(orient=False, spacing_mm=(1.0, 1.0), normalisation=ZScore()),
        Preprocessing(orient=False, spacing_mm=(1.0, 2.0), normalisation=ZScore()),
        Preprocessing(orient=False, spacing_mm=None, normalisation=ZScore(nonzero=True)),
        Preprocessing(orient=False, spacing_mm=None, normalisation=Window(lower=0.0, upper=1.0)),
        Preprocessing(orient=False, spacing_mm=None, normalisation=Window(lower=0.5, upper=1.0)),
        Preprocessing(orient=False, spacing_mm=None, normalisation=Window(lower=0.0, upper=2.0)),
    ]
    assert len({str(preprocessing.knobs()) for preprocessing in made}) == len(made)
