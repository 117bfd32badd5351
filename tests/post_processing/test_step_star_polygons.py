from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from skimage.draw import polygon2mask

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Kind, Prediction, StructureClass
from medexp.post_processing._stars import Stars
from medexp.post_processing.chain import Chain
from medexp.post_processing.star_polygons import StarPolygons

CLASSES = (StructureClass("plain", 0, 1), StructureClass("mitotic", 0, 3))


def rays(dims: int, n_rays: int = 32) -> np.ndarray:
    if dims == 2:
        angle = 2 * np.pi * np.arange(n_rays) / n_rays
        return np.stack([np.sin(angle), np.cos(angle)], axis=1)
    vectors = np.random.default_rng(5).standard_normal((96, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def predict(
    shape: tuple[int, ...],
    stars: dict[tuple[int, ...], tuple[float, Any]],
    *,
    directions: np.ndarray | None = None,
    mitotic: float = 0.1,
    spacing: tuple[float, ...] | None = None,
) -> Prediction:
    """A prediction with stars by the voxel of their centre, each with its object probability and its distances."""
    directions = rays(len(shape)) if directions is None else directions
    probability, distances = np.zeros((1, *shape), np.float32), np.zeros((len(directions), *shape), np.float32)
    for centre, (sure, away) in stars.items():
        probability[(0, *centre)], distances[(slice(None), *centre)] = sure, away
    soft = np.stack([np.full(shape, share, np.float32) for share in (0.5 - mitotic, 0.5, mitotic)])
    for array in (soft, probability, distances):
        array.setflags(write=False)
    return Prediction(
        "case_7", "patient_3", Geometry.from_spacing(shape, spacing or (1.0,) * len(shape)), CLASSES,
        probabilities=soft, maps={"star_probability": probability, "star_distances": distances},
        directions={"star_distances": directions},
    )  # fmt: skip


def ball(shape: tuple[int, ...], centre: tuple[int, ...], radius: float) -> np.ndarray:
    return np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - np.array(centre), axis=-1) <= radius


@pytest.mark.parametrize("seed", range(5))
def test_a_polygon_covers_the_pixels_that_another_rasteriser_fills(seed):
    rng = np.random.default_rng(seed)
    shape, centre = (60, 70), (int(rng.integers(2, 58)), int(rng.integers(2, 68)))
    angle, (long, short) = rng.uniform(0, 6), rng.uniform(0.6, 1.6, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    directions = rays(2, 16) @ turn @ np.diag([long, -short]) @ turn  # turned, stretched and mirrored
    distances = rng.uniform(4, 25, 16).astype(np.float32)
    found = np.zeros(shape, bool)
    found[tuple(Stars(np.array([centre]), distances[None], directions, shape).covered(0).T)] = True
    corners = np.array(centre) + distances[:, None] * directions
    expected = polygon2mask(shape, corners)
    assert (found != expected).sum() <= 1  # on the border itself
    assert expected.sum() > 50


def test_a_polyhedron_covers_the_voxels_of_the_tetrahedra_between_its_centre_and_its_faces():
    rng = np.random.default_rng(0)
    shape, centre, directions = (24, 26, 22), np.array([12, 11, 10]), rays(3)
    distances = rng.uniform(5, 9, 96)
    stars = Stars(centre[None], distances[None], directions, shape)
    voxels = np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3)
    expected = np.zeros(len(voxels), bool)
    for face in ConvexHull(directions).simplices:
        shares = (voxels - centre) @ np.linalg.inv(distances[face, None] * directions[face])
        expected |= (shares >= -1e-9).all(axis=1) & (shares.sum(axis=1) <= 1)
    found = {tuple(voxel) for voxel in stars.covered(0).tolist()}
    assert found == {tuple(voxel) for voxel in voxels[expected].tolist()}
    assert stars.voxels.tolist() == [expected.sum()]


def rasters(stars: Stars) -> np.ndarray:
    drawn = np.zeros((len(stars.centres), *stars.shape), bool)
    for number, each in enumerate(drawn):
        each[tuple(stars.covered(number).T)] = True
    return drawn.reshape(len(drawn), -1)


@pytest.mark.parametrize(
    ("shape", "n", "reach", "margin", "off"),
    [((40, 50), 60, (0.2, 11), 0, 0.0), ((14, 16, 15), 40, (0.2, 5.5), 0, 0.0), ((180, 190), 30, (30, 60), 60, 0.02),
     ((60, 60, 60), 12, (16, 24), 24, 0.02)],
    ids=["small-2d", "small-3d", "large-2d", "large-3d"],
)  # fmt: skip
def test_voxels_are_counted_exactly_and_in_large_stars_nearly_so(shape, n, reach, margin, off):
    rng = np.random.default_rng(1)
    centres = np.stack([rng.integers(margin, size - margin, n) for size in shape], axis=1)
    directions = rays(len(shape))
    distances = rng.uniform(*reach, n)[:, None] * rng.uniform(0.8, 1, (n, len(directions)))
    stars = Stars(centres, distances, directions, shape)
    drawn = rasters(stars)
    np.testing.assert_allclose(stars.voxels, drawn.sum(axis=1), rtol=off)
    smaller = np.minimum(drawn.sum(axis=1), drawn[0].sum())
    shared = stars.shared(np.arange(n), stars.covered(0))
    np.testing.assert_allclose(shared / smaller, (drawn & drawn[0]).sum(axis=1) / smaller, atol=1.5 * off)


@pytest.mark.parametrize("overlap", ["smaller", "union"])
@pytest.mark.parametrize("threshold", [0.2, 0.6])
@pytest.mark.parametrize("shape", [(48, 52), (16, 18, 17)], ids=["2d", "3d"])
def test_survivors_are_those_of_a_plain_suppression_of_all_pairs(shape, threshold, overlap):
    rng = np.random.default_rng(2)
    directions, stars = rays(len(shape)), {}
    for _ in range(80):
        size = rng.uniform(1.0, 10.0 if len(shape) == 2 else 5.0)
        centre = tuple(int(rng.integers(0, size)) for size in shape)
        stars[centre] = (rng.uniform(0.3, 1), size * rng.uniform(0.7, 1, len(directions)))
    step = StarPolygons(probability_threshold=0.5, nms_threshold=threshold, overlap=overlap)
    result = step(predict(shape, stars))
    sure = sorted((item for item in stars.items() if item[1][0] >= 0.5), key=lambda item: -item[1][0])
    drawn = rasters(
        Stars(np.array([centre for centre, _ in sure]), np.stack([each[1] for _, each in sure]), directions, shape)
    )
    kept: list[int] = []
    for number, mask in enumerate(drawn):
        shares = [
            (mask & drawn[k]).sum()
            / (min(mask.sum(), drawn[k].sum()) if overlap == "smaller" else (mask | drawn[k]).sum())
            for k in kept
        ]
        if all(share <= threshold for share in shares):
            kept.append(number)
    expected = np.zeros(drawn.shape[1], int)
    for number in reversed(kept):
        expected[drawn[number]] = number + 1
    seen = [number + 1 for number in kept if (expected == number + 1).any()]
    assert 3 < len(seen) < len(sure)
    renumbered = np.zeros(len(sure) + 1, int)
    renumbered[seen] = np.arange(1, len(seen) + 1)
    assert np.array_equal(result.instances.ravel(), renumbered[expected])
    np.testing.assert_allclose(result.objects.scores, [sure[number - 1][1][0] for number in seen], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "first", "second"), [((30, 40), (15, 12), (15, 26)), ((20, 20, 34), (10, 9, 10), (10, 9, 24))]
)
def test_touching_balls_of_many_stars_each_become_one_object(shape, first, second):
    directions, stars = rays(len(shape)), {}
    for centre in (first, second):
        for voxel in np.argwhere(ball(shape, centre, 3)).tolist():
            back = np.array(centre) - voxel
            along = directions @ back  # from a point inside of a ball of radius 7 to its border
            reach = along + np.sqrt(along**2 - back @ back + 49)
            stars[tuple(voxel)] = (1 - 0.1 * np.linalg.norm(back), reach)
    result = StarPolygons()(predict(shape, stars))
    assert len(result.objects) == 2
    for centre in (first, second):
        truth = ball(shape, centre, 7)
        found = result.instances == result.instances[centre]
        assert (truth & found).sum() / (truth | found).sum() > (0.93 if len(shape) == 2 else 0.8)


def test_the_surer_star_lies_on_top():
    result = StarPolygons(nms_threshold=0.9)(predict((20, 30), {(10, 10): (0.7, 6.0), (10, 18): (0.9, 6.0)}))
    top = np.zeros((20, 30), bool)
    top[tuple(Stars(np.array([(10, 18)]), np.full((1, 32), 6.0), rays(2), (20, 30)).covered(0).T)] = True
    assert np.array_equal(result.instances == 1, top)
    assert result.instances[10, 10] == 2
    np.testing.assert_allclose(result.objects.scores, [0.9, 0.7], rtol=1e-6)


def test_the_class_is_the_one_with_the_highest_mean_inside():
    prediction = predict((20, 20), {(10, 10): (0.8, 5.0)})
    soft = prediction.probabilities.copy()
    soft[:, ball((20, 20), (10, 10), 4)] = np.array([0.1, 0.2, 0.7], np.float32)[:, None]
    result = StarPolygons()(Prediction(**{**vars(prediction), "probabilities": soft}))
    assert result.objects.labels.tolist() == [3]
    assert set(np.unique(result.mask)) == {0, 3}


@pytest.mark.parametrize(("spacing", "kept"), [((1.0, 1.0), 1), ((2.0, 2.0), 2)])
def test_small_stars_are_dropped_by_their_area_in_space(spacing, kept):
    stars = {(8, 8): (0.9, 3.0), (20, 20): (0.8, 6.0)}
    assert len(StarPolygons(min_volume_mm3=60.0)(predict((30, 30), stars, spacing=spacing)).objects) == kept


def test_voxels_below_the_threshold_have_no_star():
    stars = {(8, 8): (0.4, 3.0), (20, 20): (0.8, 3.0)}
    assert len(StarPolygons(probability_threshold=0.5)(predict((30, 30), stars)).objects) == 1
    assert len(StarPolygons(probability_threshold=0.3)(predict((30, 30), stars)).objects) == 2
    assert len(StarPolygons(probability_threshold=0.9)(predict((30, 30), stars)).objects) == 0


def test_a_star_as_large_as_the_image_and_one_without_extent_are_drawn():
    result = StarPolygons(nms_threshold=1.0, overlap="union")(
        predict((12, 16), {(2, 3): (0.8, 1e4), (6, 6): (0.9, 0.0)})
    )
    assert np.bincount(result.instances.ravel()).tolist() == [0, 1, 12 * 16 - 1]


def test_a_prediction_without_directions_or_with_maps_that_hold_nan_is_refused():
    whole = predict((12, 12), {(5, 5): (0.9, 3.0)})
    with pytest.raises(DataError, match="case_7 takes a direction for each of 32 channels"):
        StarPolygons()(Prediction(**{**vars(whole), "directions": {}}))
    for name in whole.maps:
        broken = {**whole.maps, name: np.full_like(whole.maps[name], np.nan)}
        with pytest.raises(DataError, match=f"{name}' holds nan"):
            StarPolygons()(Prediction(**{**vars(whole), "maps": broken}))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [({"probability_threshold": 0.0}, "star_polygons.probability_threshold needs a probability"),
     ({"nms_threshold": 1.5}, "star_polygons.nms_threshold needs a probability"),
     ({"overlap": "larger"}, "star_polygons.overlap needs smaller or union, got 'larger'"),
     ({"min_volume_mm3": -1.0}, "star_polygons.min_volume_mm3 needs a finite value")],
)  # fmt: skip
def test_values_that_mean_nothing_are_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        StarPolygons(**knobs)


def test_it_takes_stars_alone():
    Chain([StarPolygons()], takes=Kind.STARS, gives=Kind.INSTANCES)
    with pytest.raises(UsageError):
        Chain([StarPolygons()], takes=Kind.DISTANCES, gives=Kind.INSTANCES)
