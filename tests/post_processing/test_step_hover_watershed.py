from __future__ import annotations

import numpy as np
import pytest
from parallel_predictions import predict

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.post_processing.chain import Chain
from medexp.post_processing.hover_watershed import HoverWatershed

RAMP = np.linspace(-1, 1, 9)


def halves() -> tuple[np.ndarray, np.ndarray]:
    """Two squares of 9 pixels a side that touch along the second axis, and their offsets."""
    ids = np.zeros((11, 20), np.int32)
    ids[1:10, 1:10], ids[1:10, 10:19] = 1, 2
    offsets = np.zeros((2, 11, 20))
    offsets[0, 1:10, 1:19] = RAMP[:, None]
    offsets[1, 1:10, 1:19] = np.concatenate([RAMP, RAMP])
    return ids, offsets


def predicted(**fields):
    ids, offsets = halves()
    return predict((ids > 0) * 0.8, {"hover": offsets}, **fields)


def test_objects_meet_where_the_offsets_fall():
    assert np.array_equal(HoverWatershed()(predicted()).instances, halves()[0])


@pytest.mark.parametrize("factors", [(0.3, 0.3), (4.0, 1.0)])
def test_how_long_the_offsets_are_does_not_matter(factors):
    ids, offsets = halves()
    prediction = predict((ids > 0) * 0.8, {"hover": offsets * np.array(factors)[:, None, None]})
    assert np.array_equal(HoverWatershed()(prediction).instances, ids)


def test_the_edge_is_one_at_a_fall_from_1_to_minus_1_and_half_at_one_to_0():
    level = np.zeros((2, 40, 40))
    level[1, :, :20], level[1, :, 20:] = 1.0, -1.0
    whole = predict(np.ones((40, 40)), {"hover": level})
    assert HoverWatershed(edge_threshold=0.9)(whole).instances.max() == 2
    half = level.copy()
    half[1, :, 20:] = 0.0
    half = predict(np.ones((40, 40)), {"hover": half})
    assert HoverWatershed(edge_threshold=0.6)(half).instances.max() == 1
    assert HoverWatershed(edge_threshold=0.4)(half).instances.max() == 2


def test_borders_that_run_at_a_slant_part_objects_as_straight_ones_do():
    rows, columns = np.mgrid[:40, :40] - 19.5
    side = np.where(rows + columns < 0, 1.0, -1.0)
    prediction = predict(np.ones((40, 40)), {"hover": np.stack([side, side])})
    assert HoverWatershed(edge_threshold=0.9)(prediction).instances.max() == 2


def test_offsets_that_fall_along_another_axis_than_their_own_part_nothing():
    ids, offsets = halves()
    across = offsets[::-1].copy()
    assert HoverWatershed()(predict((ids > 0) * 0.8, {"hover": across})).instances.max() == 1


def test_too_much_smoothing_and_too_high_a_threshold_join_objects():
    assert HoverWatershed(sigma_px=8.0)(predicted()).instances.max() == 1
    assert HoverWatershed(edge_threshold=1.0)(predicted()).instances.max() == 1


def test_seeds_may_be_too_small_and_join_over_corners():
    assert HoverWatershed(min_seed_mm3=82.0)(predicted()).instances.max() == 1
    foreground = np.array([[0.9, 0.0], [0.0, 0.9]])
    prediction = predict(foreground, {"hover": np.zeros((2, 2, 2))})
    assert HoverWatershed()(prediction).instances.max() == 2
    assert HoverWatershed(connectivity="corners")(prediction).instances.max() == 1


def test_what_is_foreground_and_large_enough_are_objects():
    prediction = predict(np.array([[0.9, 0.9, 0.0, 0.4]]), {"hover": np.zeros((2, 1, 4))}, spacing=(2.0, 1.0))
    assert HoverWatershed()(prediction).instances.tolist() == [[1, 1, 0, 0]]
    assert HoverWatershed(foreground_threshold=0.3)(prediction).instances.tolist() == [[1, 1, 0, 2]]
    assert not HoverWatershed(min_volume_mm3=4.1)(prediction).instances.any()


def test_it_leads_from_offsets_to_instances():
    Chain([HoverWatershed()], takes=Kind.OFFSETS, gives=Kind.INSTANCES)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"foreground_threshold": 0.0}, r"hover_watershed\.foreground_threshold needs a probability"),
        ({"sigma_px": 0.0}, r"hover_watershed\.sigma_px needs a finite value above 0"),
        ({"edge_threshold": 1.1}, r"hover_watershed\.edge_threshold needs a probability"),
        ({"connectivity": "edges"}, r"hover_watershed\.connectivity needs faces or corners"),
        ({"min_seed_mm3": -1.0}, r"hover_watershed\.min_seed_mm3 needs a finite value"),
        ({"min_volume_mm3": -1.0}, r"hover_watershed\.min_volume_mm3 needs a finite value"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        HoverWatershed(**knobs)
