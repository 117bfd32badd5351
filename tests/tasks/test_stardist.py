"""Targets of star-convex objects, compared with the authors' program where it is installed, and with a plain walk."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medexp.tasks.representations.stardist import StarDist


def stardist(dims: int, n_rays: int | None = None, anisotropy: tuple[float, ...] | None = None) -> StarDist:
    return StarDist(
        spatial_dims=dims,
        n_rays=n_rays,
        anisotropy=anisotropy,
        probability_weight=1.0,
        distance_weight=0.2,
        distance_scale_px=10.0,
    )


def rays_of(representation: StarDist) -> np.ndarray:
    return representation.directions()["star_distances"]


def distances(representation: StarDist, instances: np.ndarray) -> np.ndarray:
    return representation.targets(instances)["star_distances"].numpy()


def blobs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Objects of any shape, some cut by the image's edge, some that touch."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 2.5)
    parts, _ = ndimage.label(noise > np.median(noise))
    return np.where(noise > np.quantile(noise, 0.8), parts + parts.max(), parts)


def walked(instances: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """How many steps of length one along a ray stay in the object, for each voxel on its own."""
    steps = np.zeros(instances.shape, int)
    for voxel in np.argwhere(instances > 0):
        while True:
            at = voxel + np.rint((steps[tuple(voxel)] + 1) * direction).astype(int)
            if ((at < 0) | (at >= instances.shape)).any() or instances[tuple(at)] != instances[tuple(voxel)]:
                break
            steps[tuple(voxel)] += 1
    return steps


@pytest.mark.parametrize(("shape", "n_rays"), [((20, 24), 12), ((9, 10, 8), 9)], ids=["2d", "3d"])
def test_distances_end_half_a_voxel_after_the_last_step_inside_of_the_object(shape, n_rays):
    instances, representation = blobs(shape, 0), stardist(len(shape), n_rays)
    found = distances(representation, instances)
    for direction, along in zip(rays_of(representation), found, strict=True):
        expected = (walked(instances, direction) + 0.5 / np.abs(direction).max()) * (instances > 0)
        np.testing.assert_allclose(along, expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_distances_in_a_picture_are_those_of_the_authors(seed):
    geometry = pytest.importorskip("stardist.geometry")
    instances = blobs((70, 90), seed)
    expected = np.moveaxis(geometry.star_dist(instances, 32), -1, 0)
    np.testing.assert_allclose(distances(stardist(2), instances), expected, atol=1e-3)


@pytest.mark.parametrize("anisotropy", [None, (2.0, 1.0, 1.0)])
def test_rays_and_steps_in_a_volume_are_those_of_the_authors(anisotropy):
    geometry, rays3d = pytest.importorskip("stardist.geometry"), pytest.importorskip("stardist.rays3d")
    instances, representation = blobs((18, 20, 22), 0), stardist(3, 48, anisotropy)
    theirs = rays3d.Rays_GoldenSpiral(48, anisotropy=anisotropy)
    rays = rays_of(representation)
    np.testing.assert_allclose(rays, theirs.vertices, atol=1e-6)
    # They measure to the centre of the first voxel outside of the object, which is one step farther.
    steps = distances(representation, instances) - (0.5 / np.abs(rays).max(axis=1))[:, None, None, None]
    first_outside = np.rint((steps[:, None] + 1) * rays[:, :, None, None, None])
    expected = np.moveaxis(geometry.star_dist3D(instances, theirs), -1, 0)
    np.testing.assert_allclose(np.linalg.norm(first_outside, axis=1) * (instances > 0), expected, atol=1e-3)


@pytest.mark.parametrize(("shape", "radius"), [((61, 61), 25.0), ((41, 41, 41), 16.0)], ids=["2d", "3d"])
def test_the_distance_from_the_middle_of_a_ball_is_its_radius(shape, radius):
    middle = np.array(shape) // 2
    away = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - middle, axis=-1)
    found = distances(stardist(len(shape)), (away <= radius).astype(np.int32))
    assert np.abs(found[(slice(None), *middle)] - radius).max() < 1
    assert abs(found[(slice(None), *middle)].mean() - radius) < 0.5


@pytest.mark.parametrize(("dims", "anisotropy"), [(2, None), (3, None), (2, (1.0, 3.0)), (3, (5.0, 1.0, 1.0))])
def test_rays_are_of_length_one_and_spread_evenly_in_space(dims, anisotropy):
    rays = rays_of(stardist(dims, 64, anisotropy))
    np.testing.assert_allclose(np.linalg.norm(rays, axis=1), 1)
    in_space = rays * np.array(anisotropy or (1.0,) * dims)
    in_space /= np.linalg.norm(in_space, axis=1, keepdims=True)
    np.testing.assert_allclose(in_space.mean(axis=0), 0, atol=0.02)
    np.testing.assert_allclose(in_space.T @ in_space / 64, np.eye(dims) / dims, atol=0.02)


@pytest.mark.parametrize("anisotropy", [None, (3.0, 1.0, 1.0)])
def test_the_object_probability_is_the_distance_to_the_border_as_a_share_of_the_largest(anisotropy):
    instances = np.pad(blobs((10, 12, 14), 1), 1)
    found = stardist(3, anisotropy=anisotropy).targets(instances)["star_probability"][0].numpy()
    expected = np.zeros(instances.shape)
    for number in np.unique(instances[instances > 0]):
        distance = ndimage.distance_transform_edt(instances == number, sampling=anisotropy)
        expected += distance / distance.max()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_object_that_fills_the_image_has_finite_targets():
    targets = stardist(2).targets(np.ones((8, 12), np.int32))
    assert torch.equal(targets["star_probability"], torch.ones(1, 8, 12))
    np.testing.assert_allclose(targets["star_distances"][0], np.arange(12)[::-1] + np.full((8, 1), 0.5), rtol=1e-6)


def test_the_loss_is_the_cross_entropy_and_the_error_weighted_by_the_object_probability():
    instances = np.pad(np.ones((1, 3, 3), np.int32), ((0, 0), (2, 1), (1, 2)))[0]
    representation = stardist(2, 4)
    targets = {name: target[None] for name, target in representation.targets(instances).items()}
    valid = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    valid[..., 3, :] = False
    logits, said = (
        torch.full((1, 1, 6, 6), 0.7),
        targets["star_distances"] + torch.tensor([1.0, -2, 3, -6]).view(4, 1, 1),
    )
    said[0, :, 2, 1] += 8  # a corner, of half the probability of the middle, which nobody annotated
    terms = representation.loss({"star_probability": [logits], "star_distances": [said / 10]}, targets, valid)
    weights = targets["star_probability"][0, 0][valid[0, 0] & torch.from_numpy(instances > 0)].numpy()
    errors = np.full(6, 3.0)
    errors[0] = (9 + 6 + 11 + 2) / 4
    assert terms["star_distances"].item() == pytest.approx(0.2 * np.average(errors, weights=weights))
    probability, target = 1 / (1 + np.exp(-0.7)), targets["star_probability"][valid].numpy()
    entropy = -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).mean()
    assert terms["star_probability"].item() == pytest.approx(entropy)


def test_maps_are_a_probability_and_distances_that_are_not_negative():
    representation = stardist(2, 4)
    maps = representation.maps(
        {"star_probability": torch.tensor([[[[0.0, 50.0]]]]), "star_distances": torch.tensor([[[[-1.0, 0.25]]]])}
    )
    assert maps["star_probability"].tolist() == [[[[0.5, 1.0]]]]
    assert maps["star_distances"].tolist() == [[[[0.0, 2.5]]]]
