from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import nn

from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Case, Image
from medexp.data.normalisation.ct import CT
from medexp.data.normalisation.window import Window
from medexp.data.normalisation.zscore import ZScore
from medexp.data.preprocessing import Preprocessing
from medexp.tasks.semantic import SemanticSegmentation

CASE = Case("liver_1", "patient_1", (Path("image.nii"),))
AS_IS = Window(lower=0.0, upper=1.0)


def image_of(pixels: np.ndarray, affine: np.ndarray, mask: np.ndarray | None = None) -> Image:
    annotation = None if mask is None else Annotation(mask=mask)
    return Image(CASE, pixels, annotation, Geometry(pixels.shape[1:], affine))


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3.0, 2.0, size=shape).astype(np.float32)


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
        orient=True,
        spacing_mm=(2.0, 1.0, 0.25),
        interpolation="linear",
        normalisation=Window(lower=-99.0, upper=99.0),
    )
    prepared = preprocessing(image_of(pixels, affine, mask))
    # World x runs along the image's last axis, y against its first, z along its second.
    oriented = (pixels.transpose(0, 3, 1, 2)[:, :, ::-1] + 99) / 198
    factors = (8 / 4, 6 / 6, 18 / 9)
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


def task_of(regions: dict[str, list[int]] | None) -> SemanticSegmentation:
    return SemanticSegmentation(
        labels={0: "background", 1: "ball"},
        loss=nn.Identity(),
        regions=regions,
        ignore_index=None,
        softmax=regions is None,
        sigmoid=regions is not None,
    )


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
    task = task_of(None)
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


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"interpolation": "spline"}, "interpolation needs one of linear, cubic, got spline"),
        ({"mask_interpolation": "linear"}, "mask_interpolation needs one of nearest, argmax, got linear"),
    ],
)
def test_an_interpolation_that_does_not_exist_is_refused(knob, message):
    with pytest.raises(UsageError, match=message):
        Preprocessing(orient=False, spacing_mm=None, normalisation=AS_IS, **knob)


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_images_and_masks_are_interpolated_as_told(interpolation):
    pixels, mask = random_pixels(1, 20, 30), np.random.default_rng(1).integers(0, 4, (20, 30), dtype=np.int16)
    image = image_of(pixels, np.eye(3), mask)
    knobs = {"orient": False, "spacing_mm": (2.5, 0.5), "normalisation": Window(lower=-99.0, upper=99.0)}
    smooth = Preprocessing(**knobs, interpolation=interpolation, mask_interpolation="argmax")(image)
    sharp = Preprocessing(**knobs, interpolation=interpolation)(image)
    kernel = {"linear": PIL.Image.Resampling.BILINEAR, "cubic": PIL.Image.Resampling.BICUBIC}[interpolation]

    def resized(values: np.ndarray) -> np.ndarray:
        return np.asarray(PIL.Image.fromarray(values.astype(np.float32)).resize((60, 8), kernel))

    for prepared in (smooth, sharp):
        np.testing.assert_allclose(prepared.pixels[0] * 198 - 99, resized(pixels[0]), atol=1e-4)
    shares = np.sort(np.stack([resized(mask == label) for label in range(4)]), axis=0)
    clear = shares[-1] - shares[-2] > 1e-5
    expected = np.stack([resized(mask == label) for label in range(4)]).argmax(axis=0)
    assert np.array_equal(smooth.annotation.mask[clear], expected[clear])
    # The nearest of 20 rows in 8, and of 30 columns in 60.
    rows, columns = [1, 3, 6, 8, 11, 13, 16, 18], np.arange(60) // 2
    assert np.array_equal(sharp.annotation.mask, mask[np.ix_(rows, columns)])


def bordered(shape: tuple[int, ...], inner: tuple[slice, ...]) -> np.ndarray:
    """Two channels that are zero outside a box, and here and there inside."""
    pixels = np.zeros((2, *shape), dtype=np.float32)
    inside = random_pixels(2, *(s.stop - s.start for s in inner))
    inside[:, ::2] = 0
    inside[0, -1] = inside[1, 0] = 1
    pixels[(slice(None), *inner)] = inside
    return pixels


@pytest.mark.parametrize("orient", [False, True])
def test_the_margin_of_zeros_is_cropped_and_nothing_else(orient):
    inner = (slice(2, 9), slice(0, 8), slice(3, 4))
    pixels = bordered((12, 10, 5), inner)
    mask = np.random.default_rng(1).integers(0, 9, (12, 10, 5), dtype=np.int16)
    affine = oblique((2, 0, 1), (1, -1, 1), (1.0, 1.0, 1.0))
    knobs = {"orient": orient, "spacing_mm": None, "normalisation": Window(lower=0.0, upper=1.0)}
    whole = Preprocessing(**knobs)(image_of(pixels, affine, mask))
    cropped = Preprocessing(**knobs, crop_zeros=True)(image_of(pixels, affine, mask))
    found = np.argwhere((pixels != 0).any(axis=0))
    assert cropped.placement.start == tuple(found.min(axis=0))
    assert cropped.placement.stop == tuple(found.max(axis=0) + 1)
    assert sorted(cropped.pixels.shape[1:]) == [1, 7, 8]
    assert cropped.pixels.sum() == pytest.approx(whole.pixels.sum())
    for values, expected in ((cropped.pixels[0], np.clip(pixels[0], 0, 1)), (cropped.annotation.mask, mask)):
        kept = np.zeros_like(expected)
        kept[inner] = expected[inner]
        assert np.array_equal(cropped.placement.unorient(values), kept)


def test_an_image_of_zeros_is_left_whole():
    prepared = Preprocessing(orient=False, spacing_mm=None, normalisation=AS_IS, crop_zeros=True)(
        image_of(np.zeros((1, 4, 5), dtype=np.float32), np.eye(3))
    )
    assert prepared.placement == Placement.identity((4, 5))


def test_what_is_annotated_in_the_margin_is_lost_and_the_rest_moves_with_the_voxels():
    inner = (slice(2, 9), slice(3, 9))
    instances = np.zeros((12, 10), dtype=np.int32)
    instances[0:2, 0:2], instances[4:7, 4:6], instances[8:12, 8:10] = 1, 2, 3
    objects = Objects.of_instances(instances, {1: 5, 2: 6, 3: 7})
    image = image_of(bordered((12, 10), inner), np.eye(3))
    preprocessing = Preprocessing(orient=False, spacing_mm=(0.5, 1.0), normalisation=AS_IS, crop_zeros=True)
    drawn = preprocessing(replace(image, annotation=Annotation(instances=instances, objects=objects))).annotation
    # Of instance 3 one voxel is left; instance 1 and, by its centre, box 3 lie in the margin.
    assert np.array_equal(drawn.instances, np.repeat(np.array([0, 0, 1, 2])[instances[inner]], 2, axis=0))
    assert drawn.objects.labels.tolist() == [6, 7]
    boxes = preprocessing(replace(image, annotation=Annotation(objects=objects))).annotation.objects
    assert boxes.labels.tolist() == [6]
    assert boxes.boxes.tolist() == [[4, 1, 10, 3]]


@pytest.mark.parametrize(("order", "signs"), [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (1, -1, -1))])
def test_predictions_of_a_cropped_image_come_back_onto_its_grid_with_background_around(order, signs):
    shape, spacing = (40, 34, 15), (0.8, 1.1, 3.0)
    mask = ball(shape, spacing)
    pixels = np.zeros((1, *shape), dtype=np.float32)
    pixels[0, 2:32, 3:28, 1:13] = 1 + mask[2:32, 3:28, 1:13]
    image = image_of(pixels, oblique(order, signs, spacing), mask)
    prepared = Preprocessing(orient=True, spacing_mm=(1.0, 1.5, 2.0), normalisation=AS_IS, crop_zeros=True)(image)
    assert prepared.placement.is_cropped
    logits = torch.from_numpy(np.stack([prepared.annotation.mask == k for k in (0, 1)])[None] * np.float32(40)) - 20
    batch = Batch(
        images=torch.from_numpy(prepared.pixels)[None],
        targets=None,
        case_ids=("liver_1",),
        images_read=(image,),
        placements=(prepared.placement,),
    )
    kept = tuple(slice(a, b) for a, b in zip(prepared.placement.start, prepared.placement.stop, strict=True))
    margin = np.ones(shape, dtype=bool)
    margin[kept] = False
    for regions, outside in ((None, [1.0, 0.0]), ({"all": [1], "ball": [1]}, [0.0, 0.0])):
        (prediction,) = task_of(regions).decode({"semantic": logits}, batch)
        assert prediction.probabilities.shape[1:] == shape
        assert np.array_equal(prediction.probabilities[:, margin], np.array(outside)[:, None] * np.ones(margin.sum()))
        decoded = prediction.probabilities[1] > 0.5
        assert 2 * np.logical_and(decoded, mask).sum() / (decoded.sum() + mask.sum()) > 0.93


def test_every_knob_distinguishes_two_preprocessings():
    usual = {"orient": False, "spacing_mm": None, "normalisation": ZScore()}
    changes = [
        {},
        {"orient": True},
        {"spacing_mm": (1.0, 1.0)},
        {"spacing_mm": (1.0, 2.0)},
        {"crop_zeros": True},
        {"interpolation": "linear"},
        {"mask_interpolation": "argmax"},
        {"normalisation": ZScore(nonzero=True)},
        {"normalisation": Window(lower=0.0, upper=1.0)},
    ]
    assert len({str(Preprocessing(**usual | change).knobs()) for change in changes}) == len(changes)


def test_a_scale_that_follows_from_a_dataset_is_fitted_before_it_is_used():
    preprocessing = Preprocessing(orient=False, spacing_mm=None, normalisation=CT())
    image = image_of(np.array([[[-500.0, 100.0, 160.0, 220.0]]], dtype=np.float32), np.eye(3))
    for use in (lambda: preprocessing(image), preprocessing.knobs):
        with pytest.raises(UsageError, match=r"the normalisation CT follows from a dataset; call Preprocessing\.fit"):
            use()
    values = np.arange(100.0, 221.0)
    fitted = preprocessing.fit(channels=("CT",), foreground=lambda: (values,))
    low, mean, std = np.percentile(values, 0.5), values.mean(), values.std()
    expected = [(low - mean) / std, (low - mean) / std, 0.0, (np.percentile(values, 99.5) - mean) / std]
    np.testing.assert_allclose(fitted(image).pixels[0, 0], expected, atol=1e-4)
    assert fitted.fit(channels=("CT",), foreground=lambda: pytest.fail("it was fitted")) is fitted


def test_the_spacing_of_the_networks_grid_is_that_of_its_own_axes() -> None:
    affine = np.array([[0, 0, 3.0, 0], [-0.5, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]])
    geometry = Geometry(shape=(40, 20, 8), affine=affine)
    image = Image(
        Case("c", "c", ()), np.random.default_rng(0).random((1, 40, 20, 8)).astype(np.float32), None, geometry
    )
    own = Preprocessing(orient=True, spacing_mm=None, normalisation=ZScore())(image)
    assert own.pixels.shape[1:] == (8, 40, 20)
    assert own.spacing_mm == pytest.approx((3.0, 0.5, 1.0))
    resampled = Preprocessing(orient=True, spacing_mm=[1.5, 1.0, 1.0], normalisation=ZScore())(image)
    assert resampled.spacing_mm == pytest.approx((1.5, 1.0, 1.0))
