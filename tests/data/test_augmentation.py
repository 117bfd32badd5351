"""Knobs of the augmentation, the draw of one sample's parameters, and their record; what they do is tested beside."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, fields

import numpy as np
import pytest
from scipy import stats

from medexp.cli.composition import compose
from medexp.core.errors import UsageError
from medexp.core.types import Annotation
from medexp.data.augmentation import Augmentation, Drawn, Intensities, cut_patch

SPATIAL = ("rotation", "scale", "elastic")
OF_INTENSITY = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")
INGREDIENTS = SPATIAL + OF_INTENSITY
ON = {f"{name}_probability": 1.0 for name in INGREDIENTS} | {"flip_axes": [0], "brightness_range": [0.75, 1.25]}
# Attributes of what is drawn for each ingredient.
ATTRIBUTES = {
    "rotation": {"rotation_degrees"},
    "scale": {"scale"},
    "elastic": {"elastic_mm"},
    "noise": {"noise_std"},
    "blur": {"blur_sigma_voxels"},
    "brightness": {"brightness_factor", "brightness_shift"},
    "contrast": {"contrast"},
    "low_resolution": {"low_resolution"},
    "gamma_inverted": {"gamma_inverted"},
    "gamma": {"gamma"},
}


def draw(seed: int = 0, dims: int = 2, n_channels: int = 1, **knobs) -> Drawn:
    return Augmentation(**knobs).draw(np.random.default_rng(seed), spatial_dims=dims, n_channels=n_channels)


def flat(drawn: Drawn) -> dict:
    """All parameters of a sample whose channels change alike."""
    (intensities,) = drawn.intensities
    return {**asdict(drawn), **asdict(intensities), "intensities": None}


def result_of(**knobs) -> list[np.ndarray]:
    """What some samples become with every ingredient on, except for the given knobs."""
    random = np.random.default_rng(0)
    pixels = random.normal(size=(2, 20, 20)).astype(np.float32)
    known = Annotation(mask=random.integers(0, 4, size=(20, 20), dtype=np.int16))
    patches = []
    for seed in range(4):
        drawn = draw(seed, n_channels=2, **(ON | knobs))
        patch, moved = cut_patch(
            pixels, known, center=(9.0, 10.0), patch_size=(12, 12), drawn=drawn, spacing_mm=(1.0, 1.0)
        )
        patches += [patch.numpy(), moved.mask]
    return patches


VARIED = {
    "flip_axes": [0, 1],
    "rotation_degrees": 30.0,
    "scale_range": [0.7, 1.2],
    "elastic_mm": 4.0,
    "elastic_spacing_mm": 30.0,
    "per_channel": True,
    "brightness": 0.4,
    "brightness_range": [0.5, 1.25],
    "contrast_range": [0.75, 1.5],
    "blur_sigma_voxels": [0.5, 2.0],
    "low_resolution_range": [0.25, 1.0],
    "gamma_range": [0.5, 1.5],
    "noise_std": 0.2,
} | {f"{name}_probability": 0.0 for name in INGREDIENTS}


@pytest.mark.parametrize(("knob", "value"), VARIED.items())
def test_every_knob_changes_the_result(knob, value):
    before, after = result_of(), result_of(**{knob: value})
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    # The labels of a sample move with the image and never change with its intensities.
    moves = knob.startswith(("flip", *SPATIAL))
    assert any(not np.array_equal(a, b) for a, b in zip(before[1::2], after[1::2], strict=True)) is moves


@pytest.mark.parametrize("option", ["none", "light", "full"])
def test_every_knob_stands_in_the_option_files_and_was_varied(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = {
        key: value for key, value in compose(None, [f"augmentation={option}"]).augmentation.items() if key != "_target_"
    }
    assert set(knobs) == {field.name for field in fields(Augmentation)} == set(VARIED)
    Augmentation(
        **{key: list(value) if key.endswith(("axes", "range", "voxels")) else value for key, value in knobs.items()}
    )


def test_the_option_without_augmentation_holds_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = compose(None, ["augmentation=none"]).augmentation
    for name, value in asdict(Augmentation()).items():
        assert knobs[name] == (list(value) if isinstance(value, tuple) else value), name


def test_full_augmentation_has_every_ingredient(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    knobs = compose(None, ["augmentation=full"]).augmentation
    assert all(knobs[f"{name}_probability"] > 0 for name in INGREDIENTS)
    assert knobs.flip_axes == [0, 1, 2]


def test_with_all_probabilities_at_zero_nothing_changes():
    for seed in range(20):
        drawn = flat(draw(seed, 3))
        neutral = flat(Drawn())
        free = {"elastic_seed", "noise_seed", "elastic_spacing_mm"}
        assert {key: value for key, value in drawn.items() if key not in free} == {
            key: value for key, value in neutral.items() if key not in free
        }


def test_each_named_axis_is_flipped_half_the_time_and_no_other():
    flips = [draw(seed, 3, flip_axes=[0, 2]).axes_flipped for seed in range(400)]
    counts = Counter(axis for flipped in flips for axis in flipped)
    assert set(counts) == {0, 2}
    assert all(abs(count / 400 - 0.5) < 0.1 for count in counts.values())


def test_drawn_rotations_turn_by_no_more_than_asked():
    angles = []
    for seed in range(200):
        matrix = draw(seed, 2, rotation_probability=1.0, rotation_degrees=20.0).matrix_mm(2)
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-12)
        assert np.linalg.det(matrix) == pytest.approx(1.0)
        angles.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])))
    assert -20.0 < min(angles) < -15.0
    assert 15.0 < max(angles) < 20.0


def test_drawn_rotations_turn_about_every_axis_in_3d():
    drawn = [draw(seed, 3, rotation_probability=1.0, rotation_degrees=20.0).matrix_mm(3) for seed in range(50)]
    matrices = np.array(drawn)
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(matrices), 1.0)
    assert (matrices.std(axis=0)[~np.eye(3, dtype=bool)] > 0.1).all()


@pytest.mark.parametrize("name", ["scale", "contrast", "gamma", "gamma_inverted", "brightness"])
def test_factors_lie_as_often_below_one_as_above_and_evenly_on_either_side(name):
    attribute = {"brightness": "brightness_factor"}.get(name, name)
    limits = {"gamma_inverted": "gamma_range"}.get(name, f"{name}_range")
    knobs = {f"{name}_probability": 1.0, limits: [0.7, 1.9]}
    factors = np.array([flat(draw(seed, **knobs))[attribute] for seed in range(1000)])
    assert abs((factors < 1).mean() - 0.5) < 4 * math.sqrt(0.25 / 1000)
    assert stats.kstest(factors[factors < 1], stats.uniform(0.7, 0.3).cdf).pvalue > 1e-3
    assert stats.kstest(factors[factors > 1], stats.uniform(1.0, 0.9).cdf).pvalue > 1e-3


@pytest.mark.parametrize("limits", [[0.5, 0.9], [1.2, 1.5], [0.5, 1.0], [1.0, 1.5], [1.3, 1.3]])
def test_factors_keep_to_a_range_on_one_side(limits):
    factors = np.array([draw(seed, scale_probability=1.0, scale_range=limits).scale for seed in range(300)])
    assert limits[0] <= factors.min() <= factors.max() <= limits[1]
    assert factors.max() - factors.min() >= 0.9 * (limits[1] - limits[0])


@pytest.mark.parametrize("name", INGREDIENTS)
def test_turning_an_ingredient_off_does_not_change_the_draws_of_the_others(name):
    for seed in range(5):
        all_on, without = flat(draw(seed, 3, **ON)), flat(draw(seed, 3, **(ON | {f"{name}_probability": 0.0})))
        assert {key for key, value in all_on.items() if without[key] != value} == ATTRIBUTES[name]


@pytest.mark.parametrize("name", INGREDIENTS)
def test_probabilities_are_kept(name):
    neutral = flat(Drawn())
    attribute = min(ATTRIBUTES[name])
    knobs = {f"{name}_probability": 0.3, "brightness_range": [0.75, 1.25]}
    changed = sum(flat(draw(seed, **knobs))[attribute] != neutral[attribute] for seed in range(600))
    assert abs(changed / 600 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 600)


def test_channels_change_alike_or_each_by_itself():
    alike = draw(0, n_channels=3, **ON)
    each = draw(0, n_channels=3, per_channel=True, **ON)
    assert len(alike.intensities) == 1
    assert len(each.intensities) == len({change.gamma for change in each.intensities}) == 3
    # Where things are does not depend on how their intensities are drawn.
    assert alike.rotation_degrees == each.rotation_degrees


def test_equal_seeds_draw_equal_parameters():
    assert draw(0, 3, **ON) == draw(0, 3, **ON)
    assert draw(0, 3, **ON) != draw(1, 3, **ON)


def test_a_record_in_json_tells_all_that_a_patch_was_made_with():
    pixels = np.random.default_rng(0).normal(size=(2, 14, 15, 16)).astype(np.float32)
    drawn = draw(4, 3, n_channels=2, per_channel=True, **(ON | {"elastic_mm": 2.0}))
    plain = json.loads(json.dumps(drawn.as_plain()))
    changes = tuple(
        Intensities(**{key: tuple(value) if isinstance(value, list) else value for key, value in change.items()})
        for change in plain.pop("intensities")
    )
    again = Drawn(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}, intensities=changes
    )
    knobs = {"center": (7.0, 7.0, 7.0), "patch_size": (8, 9, 10), "spacing_mm": (1.0, 2.0, 1.0)}
    first, second = (cut_patch(pixels, Annotation(), drawn=which, **knobs)[0] for which in (drawn, again))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"scale_range": [1.4, 0.7]}, r"augmentation\.scale_range needs 0 < low <= high, got \[1\.4, 0\.7\]"),
        ({"contrast_range": [0.0, 1.0]}, r"augmentation\.contrast_range needs 0 < low"),
        ({"gamma_range": [-1.0, 1.0]}, r"augmentation\.gamma_range needs 0 < low"),
        ({"brightness_range": [0.5]}, r"augmentation\.brightness_range needs 0 < low <= high, got \[0\.5\]"),
        ({"blur_sigma_voxels": [0.0, 1.0]}, r"augmentation\.blur_sigma_voxels needs 0 < low"),
        (
            {"low_resolution_range": [0.5, 1.5]},
            r"augmentation\.low_resolution_range needs factors up to 1, got \[0\.5, 1",
        ),
        ({"rotation_probability": 1.5}, r"augmentation\.rotation_probability needs a value in \[0, 1\], got 1\.5"),
        ({"noise_probability": -0.1}, r"augmentation\.noise_probability needs a value in \[0, 1\], got -0\.1"),
        ({"rotation_degrees": -5.0}, r"augmentation\.rotation_degrees needs a value >= 0, got -5\.0"),
        ({"noise_std": -1.0}, r"augmentation\.noise_std needs a value >= 0"),
        ({"elastic_mm": 9.0}, r"augmentation\.elastic_mm needs at most 0\.4 of elastic_spacing_mm=20\.0.*got 9\.0"),
        ({"flip_axes": [-1]}, r"augmentation\.flip_axes counts the spatial axes from 0, got \[-1\]"),
    ],
)
def test_values_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        Augmentation(**knobs)


def test_an_axis_that_the_image_has_not_is_refused():
    augmentation = Augmentation(flip_axes=[2])
    augmentation.check_dims(3)
    with pytest.raises(UsageError, match=r"needs axes 0\.\.1 for 2D images, got \[2\]"):
        augmentation.check_dims(2)
