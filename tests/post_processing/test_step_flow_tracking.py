from __future__ import annotations

import numpy as np
import pytest
from parallel_predictions import predict

from medexp.core.errors import UsageError
from medexp.core.heat_flow import heat_flows
from medexp.core.types import Kind
from medexp.post_processing.chain import Chain
from medexp.post_processing.flow_tracking import FlowTracking


def halves() -> np.ndarray:
    """Two squares of 9 pixels a side that touch."""
    ids = np.zeros((11, 20), np.int32)
    ids[1:10, 1:10], ids[1:10, 10:19] = 1, 2
    return ids


def predicted(ids: np.ndarray, flow: np.ndarray | None = None, **fields):
    return predict((ids > 0) * 0.8, {"flow": heat_flows(ids) if flow is None else flow}, **fields)


def test_ways_that_end_at_one_place_are_an_object():
    assert np.array_equal(FlowTracking()(predicted(halves())).instances, halves())


@pytest.mark.parametrize("factors", [(0.2, 0.2), (3.0, 3.0), (1.0, 2.0)])
def test_how_long_the_vectors_are_does_not_matter(factors):
    flow = heat_flows(halves()) * np.array(factors)[:, None, None]
    assert np.array_equal(FlowTracking()(predicted(halves(), flow)).instances, halves())


def test_without_enough_steps_and_ends_there_is_no_peak():
    assert FlowTracking(min_ends=20)(predicted(halves())).instances.max() == 2
    assert not FlowTracking(min_ends=20, steps=1)(predicted(halves())).instances.any()
    assert not FlowTracking(min_ends=82)(predicted(halves())).instances.any()


def test_a_peak_is_the_highest_one_within_its_radius_and_has_a_reach():
    prediction = predict(np.ones((1, 9)), {"flow": np.zeros((2, 1, 9))})  # each way ends where it begins
    assert FlowTracking(peak_radius_px=8, min_ends=1, reach_px=4.0)(prediction).instances.tolist() == [
        [1] * 5 + [0] * 4
    ]
    assert FlowTracking(peak_radius_px=8, min_ends=1, reach_px=8.0)(prediction).instances.all()


def test_a_voxel_that_is_no_foreground_belongs_to_nothing():
    foreground, ids = (halves() > 0) * 0.8, halves()
    foreground[1, 1] = 0.4
    prediction = predict(foreground, {"flow": heat_flows(ids)})
    assert FlowTracking()(prediction).instances[1, 1] == 0
    assert FlowTracking(foreground_threshold=0.3)(prediction).instances[1, 1] == 1


def test_objects_whose_flow_is_not_what_was_learned_are_left_out():
    flow = heat_flows(halves())
    wrong = flow.copy()
    wrong[0, :, :10] = -np.roll(wrong[0, :, :10], 1, axis=1)
    whole = predicted(halves(), flow)
    assert np.array_equal(FlowTracking(max_flow_error=0.01)(whole).instances, halves())
    result = FlowTracking(max_flow_error=0.01)(predicted(halves(), wrong)).instances
    assert np.array_equal(result, halves() == 2)


def test_small_objects_are_left_out_by_their_volume():
    ids = halves()
    ids[:, 10:] = 0
    ids[1:6, 12:17] = 2
    result = FlowTracking(min_volume_mm3=60.0)(predicted(ids, spacing=(2.0, 1.0)))
    assert np.array_equal(result.instances, ids == 1)


def test_it_leads_from_flows_to_instances():
    Chain([FlowTracking()], takes=Kind.FLOWS, gives=Kind.INSTANCES)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"foreground_threshold": 0.0}, r"flow_tracking\.foreground_threshold needs a probability"),
        ({"steps": 0}, r"flow_tracking\.steps needs a whole number from 1 on"),
        ({"peak_radius_px": 0}, r"flow_tracking\.peak_radius_px needs a whole number from 1 on"),
        ({"min_ends": 0}, r"flow_tracking\.min_ends needs a whole number from 1 on"),
        ({"reach_px": 0.0}, r"flow_tracking\.reach_px needs a finite value above 0"),
        ({"max_flow_error": 0.0}, r"flow_tracking\.max_flow_error needs a finite value above 0"),
        ({"min_volume_mm3": -1.0}, r"flow_tracking\.min_volume_mm3 needs a finite value"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        FlowTracking(**knobs)
