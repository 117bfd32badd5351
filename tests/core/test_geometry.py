from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medexp.core.errors import DataError
from medexp.core.geometry import Geometry, Placement, bounding_box, orient_to_world, resized_shape

SHAPE = (3, 4, 5)
SPACING = (0.8, 1.5, 3.0)


def orientations(dims: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every order of the axes with every choice of signs: 8 in 2D, 48 in 3D."""
    return list(itertools.product(itertools.permutations(range(dims)), itertools.product((1, -1), repeat=dims)))


def affine_of(order: tuple[int, ...], signs: tuple[int, ...], *, tilt_degrees: float = 0.0) -> np.ndarray:
    """Voxel axis i runs along world axis order[i], in the direction signs[i], all tilted a little."""
    dims = len(order)
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = 0
    for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
        affine[world, axis] = sign * SPACING[axis]
    turn = Rotation.from_euler("xyz", [tilt_degrees] * 3, degrees=True).as_matrix()
    affine[:dims, :dims] = turn[:dims, :dims] @ affine[:dims, :dims] if dims == 3 else affine[:dims, :dims]
    affine[:dims, dims] = np.arange(1, dims + 1) * 7.0
    return affine


def world_of_voxels(geometry: Geometry) -> np.ndarray:
    """World coordinates of all voxels, (d, *shape)."""
    index = np.indices(geometry.shape).reshape(geometry.spatial_dims, -1)
    world = geometry.affine[:-1, :-1] @ index + geometry.affine[:-1, -1:]
    return world.reshape(-1, *geometry.shape)


def placement_of(geometry: Geometry) -> Placement:
    permutation, flipped = orient_to_world(geometry)
    return Placement(geometry.shape, permutation, flipped, tuple(geometry.shape[axis] for axis in permutation))


@pytest.mark.parametrize("tilt_degrees", [0.0, 12.0])
@pytest.mark.parametrize(("order", "signs"), orientations(3))
def test_orient_gives_what_nibabel_calls_closest_canonical_in_3d(order, signs, tilt_degrees):
    affine = affine_of(order, signs, tilt_degrees=tilt_degrees)
    voxels = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    placement = placement_of(Geometry(SHAPE, affine))
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, affine))
    assert np.array_equal(placement.orient(voxels), np.asanyarray(canonical.dataobj))
    assert placement.oriented_shape == canonical.shape
    assert np.array_equal(placement.unorient(placement.orient(voxels)), voxels)


@pytest.mark.parametrize(("order", "signs"), orientations(2))
def test_orient_gives_what_nibabel_calls_closest_canonical_in_2d(order, signs):
    affine = affine_of(order, signs)
    pixels = np.arange(12, dtype=np.float32).reshape(3, 4)
    placement = placement_of(Geometry((3, 4), affine))
    volume_affine = np.eye(4)
    volume_affine[np.ix_([0, 1, 3], [0, 1, 3])] = affine
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(pixels[..., None], volume_affine))
    assert np.array_equal(placement.orient(pixels), np.asanyarray(canonical.dataobj)[..., 0])
    assert np.array_equal(placement.unorient(placement.orient(pixels)), pixels)


@pytest.mark.parametrize("dims", [2, 3])
def test_oriented_axes_run_along_the_axes_of_the_world(dims):
    for order, signs in orientations(dims):
        geometry = Geometry(SHAPE[:dims], affine_of(order, signs, tilt_degrees=12.0))
        world = placement_of(geometry).orient(world_of_voxels(geometry))
        for axis in range(dims):
            assert (np.diff(world[axis], axis=axis) > 0).all()


def test_orient_leaves_leading_axes_alone_and_unorient_undoes_it_at_any_angle():
    random = np.random.default_rng(0)
    channels = random.normal(size=(2, *SHAPE))
    for turn in Rotation.random(200, rng=random).as_matrix():
        affine = np.eye(4)
        affine[:3, :3] = turn * SPACING
        placement = placement_of(Geometry(SHAPE, affine))
        oriented = placement.orient(channels)
        assert np.array_equal(oriented[1], placement.orient(channels[1]))
        assert np.array_equal(placement.unorient(oriented), channels)


def test_identity_placement_changes_nothing():
    voxels = np.random.default_rng(0).normal(size=SHAPE)
    placement = Placement.identity(SHAPE)
    assert placement.resized_shape == placement.oriented_shape == SHAPE
    assert np.array_equal(placement.orient(voxels), voxels)


def test_spacing_and_volume_follow_from_the_affine():
    geometry = Geometry(SHAPE, affine_of((2, 0, 1), (1, -1, 1), tilt_degrees=30.0))
    assert geometry.spacing_mm == pytest.approx(SPACING)
    assert geometry.voxel_volume_mm3 == pytest.approx(0.8 * 1.5 * 3.0)
    assert geometry.spatial_dims == 3


def test_grid_from_spacing_starts_at_the_origin():
    geometry = Geometry.from_spacing((4, 6), (0.5, 2.0), unit="px")
    assert geometry.spacing_mm == (0.5, 2.0)
    assert np.array_equal(world_of_voxels(geometry)[:, 3, 5], [1.5, 10.0])
    assert geometry.unit == "px"


def test_spacing_of_another_dimension_is_refused():
    with pytest.raises(DataError, match=r"spacing_mm needs 3 values for shape \(3, 4, 5\), got \(1.0, 1.0\)"):
        Geometry.from_spacing(SHAPE, (1.0, 1.0))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_singular_or_broken_affine_is_refused(value):
    affine = np.eye(4)
    affine[1, 1] = value
    with pytest.raises(DataError, match="singular or not finite"):
        Geometry(SHAPE, affine)


def test_affine_of_another_dimension_is_refused():
    with pytest.raises(DataError, match=r"2D image needs shape \(3, 3\), got \(4, 4\)"):
        Geometry((3, 4), np.eye(4))


def test_resized_grid_covers_the_field_of_view_to_half_a_voxel():
    for shape, have, want in [((30, 41, 7), (1.0, 0.7, 5.0), (2.0, 1.0, 1.25)), ((64, 33), (0.3, 0.3), (0.4, 1.0))]:
        new = resized_shape(shape, have, want)
        for n, mm, n_new, mm_new in zip(shape, have, new, want, strict=True):
            assert abs(n * mm - n_new * mm_new) <= mm_new / 2 + 1e-9


def test_resized_grid_keeps_one_voxel_at_least():
    assert resized_shape((4, 1), (1.0, 1.0), (1.0, 100.0)) == (4, 1)


CROPS = [((0, 0, 0), SHAPE), ((1, 0, 2), (3, 4, 5)), ((0, 2, 1), (2, 3, 4)), ((2, 3, 4), (3, 4, 5))]


@pytest.mark.parametrize(("start", "stop"), CROPS)
@pytest.mark.parametrize(("permutation", "flipped"), [((0, 1, 2), ()), ((2, 0, 1), (0,)), ((1, 2, 0), (0, 1, 2))])
def test_what_is_kept_is_oriented_and_laid_back_where_it_was(start, stop, permutation, flipped):
    kept = tuple(slice(first, end) for first, end in zip(start, stop, strict=True))
    voxels = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    oriented_shape = tuple(stop[axis] - start[axis] for axis in permutation)
    placement = Placement(SHAPE, permutation, flipped, oriented_shape, start, stop)
    assert placement.oriented_shape == oriented_shape
    assert placement.is_cropped is (oriented_shape != tuple(SHAPE[axis] for axis in permutation))
    oriented = placement.orient(voxels)
    expected = np.flip(np.transpose(voxels[0][kept], permutation), flipped)
    assert np.array_equal(oriented[0], expected)
    for outside, fill in ((0.0, (0.0, 0.0)), (np.array([1.0, -2.0]), (1.0, -2.0))):
        whole = np.stack([np.full(SHAPE, value, dtype=np.float32) for value in fill])
        whole[(slice(None), *kept)] = voxels[(slice(None), *kept)]
        back = placement.unorient(oriented, outside=outside)
        assert back.dtype == np.float32
        assert np.array_equal(back, whole)
    assert np.array_equal(placement.unorient(oriented[0], outside=3.0)[kept], voxels[0][kept])


@pytest.mark.parametrize(("start", "stop"), CROPS)
@pytest.mark.parametrize(("permutation", "flipped"), [((0, 1, 2), ()), ((2, 0, 1), (0,)), ((1, 2, 0), (0, 1, 2))])
def test_places_follow_the_voxels_onto_the_grid_of_what_was_kept(start, stop, permutation, flipped):
    oriented_shape = tuple(stop[axis] - start[axis] for axis in permutation)
    placement = Placement(SHAPE, permutation, flipped, tuple(3 * n for n in oriented_shape), start, stop)
    matrix, offset = placement.to_network()
    # The coordinates of each voxel's centre are carried along as voxel values.
    centres = placement.orient(np.indices(SHAPE) + 0.5)
    for index in np.ndindex(oriented_shape):
        at = centres[(slice(None), *index)]
        np.testing.assert_allclose(matrix @ at + offset, 3 * (np.array(index) + 0.5), atol=1e-12)
        back, shift = placement.to_image()
        np.testing.assert_allclose(back @ (3 * (np.array(index) + 0.5)) + shift, at, atol=1e-12)


def test_a_placement_that_keeps_all_is_the_same_whether_or_not_it_says_so():
    said = Placement((4, 5), (1, 0), (0,), (5, 4), (0, 0), (4, 5))
    assert said == Placement((4, 5), (1, 0), (0,), (5, 4))
    assert np.shares_memory(said.unorient(array := np.zeros((5, 4))), array)


@pytest.mark.parametrize(("start", "stop"), [((0, 3), (4, 3)), ((-1, 0), (4, 5)), ((0, 0), (4, 6))])
def test_keeping_nothing_or_more_than_there_is_is_refused(start, stop):
    with pytest.raises(ValueError, match="0 <= start < stop <= shape"):
        Placement((4, 5), (0, 1), (), (4, 5), start, stop)


def test_the_bounding_box_is_that_of_scipy():
    random = np.random.default_rng(0)
    for shape in ((7, 9), (6, 5, 8), (1, 4)):
        inside = random.random(shape) < 0.05
        inside[tuple(random.integers(shape))] = True
        (expected,) = ndimage.find_objects(inside.astype(int))
        start, stop = bounding_box(inside)
        assert (start, stop) == (tuple(s.start for s in expected), tuple(s.stop for s in expected))


def test_the_bounding_box_of_nothing_is_the_whole_grid():
    assert bounding_box(np.zeros((3, 4), dtype=bool)) == ((0, 0), (3, 4))
