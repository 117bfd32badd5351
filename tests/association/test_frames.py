from __future__ import annotations

import math

import numpy as np
import pytest

from medexp.core.errors import UsageError
from medexp.core.tracks import Track

pytest.importorskip("laptrack")
from medexp.association.frames import FrameLinker


def _at(tracked, frame: int, place: tuple[int, ...]) -> int:
    """The track at a place of a frame."""
    return int(tracked.sequence.frames[frame][place])


@pytest.mark.parametrize("cost", ["distance", "overlap"])
def test_objects_keep_their_track_however_frames_number_them(discs, cost) -> None:
    sequence = discs({0: {1: (5, 5), 2: (20, 20)}, 1: {7: (21, 20), 3: (5, 6)}, 2: {2: (5, 7), 5: (22, 20)}})

    tracked = FrameLinker(cost=cost)(sequence)

    assert tracked.tracks == (Track(1, 0, 2, 0), Track(2, 0, 2, 0))
    assert [_at(tracked, frame, (5, 5 + frame)) for frame in range(3)] == [1, 1, 1]
    assert [_at(tracked, frame, (20 + frame, 20)) for frame in range(3)] == [2, 2, 2]


@pytest.mark.parametrize("cost", ["distance", "overlap"])
def test_objects_that_do_not_move_are_linked(discs, cost) -> None:
    tracked = FrameLinker(cost=cost, gap_frames=2)(discs({frame: {1: (5, 5), 2: (20, 20)} for frame in range(4)}))

    assert tracked.tracks == (Track(1, 0, 3, 0), Track(2, 0, 3, 0))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_link_may_be_as_long_as_the_distance_in_mm_and_no_longer(discs, dims) -> None:
    start, end = (8,) * dims, (8,) * (dims - 1) + (12,)
    sequence = discs({0: {1: start}, 1: {1: end}}, shape=(20,) * dims, spacing_mm=(3.0,) * (dims - 1) + (0.5,))

    assert len(FrameLinker(max_distance_mm=2.0)(sequence).tracks) == 1
    assert len(FrameLinker(max_distance_mm=1.99)(sequence).tracks) == 2


def test_the_sum_of_squared_distances_is_least(discs) -> None:
    # Nearest first would link the second object of frame 0 with the first of frame 1, and nothing with the rest.
    sequence = discs({0: {1: (16, 4), 2: (16, 14)}, 1: {1: (16, 11), 2: (16, 21)}})

    tracked = FrameLinker(max_distance_mm=8.0, allow_division=False)(sequence)

    assert tracked.tracks == (Track(1, 0, 1, 0), Track(2, 0, 1, 0))
    assert _at(tracked, 1, (16, 11)) == 1


@pytest.mark.parametrize("cost", ["distance", "overlap"])
def test_appearance_and_disappearance_begin_and_end_tracks(discs, cost) -> None:
    sequence = discs({0: {1: (5, 5)}, 1: {1: (5, 5), 2: (25, 25)}, 2: {1: (25, 25)}, 3: {}})

    assert FrameLinker(cost=cost)(sequence).tracks == (Track(1, 0, 1, 0), Track(2, 1, 2, 0))


@pytest.mark.parametrize("cost", ["distance", "overlap"])
@pytest.mark.parametrize(("gap_frames", "parents"), [(0, [0, 0, 0]), (1, [0, 1, 0]), (2, [0, 1, 2])])
def test_a_gap_up_to_its_length_ends_a_track_and_begins_its_continuation(discs, cost, gap_frames, parents) -> None:
    sequence = discs({0: {1: (9, 9)}, 1: {}, 2: {1: (9, 9)}, 3: {}, 4: {}, 5: {1: (9, 9)}})

    tracked = FrameLinker(cost=cost, gap_frames=gap_frames)(sequence)

    assert [track.parent for track in tracked.tracks] == parents
    assert [(track.first, track.last) for track in tracked.tracks] == [(0, 0), (2, 2), (5, 5)]


@pytest.mark.parametrize(("cost", "radius"), [("distance", 2.2), ("overlap", 4.2)])
def test_a_division_ends_the_mother_and_begins_two_daughters(discs, cost, radius) -> None:
    sequence = discs(
        {0: {1: (16, 16)}, 1: {1: (16, 16)}, 2: {1: (11, 16), 2: (21, 16)}, 3: {1: (10, 16), 2: (22, 16)}},
        radius=radius,
    )

    with_division = FrameLinker(cost=cost, max_distance_mm=6.0)(sequence)
    without = FrameLinker(cost=cost, max_distance_mm=6.0, allow_division=False)(sequence)

    assert with_division.tracks == (Track(1, 0, 1, 0), Track(2, 2, 3, 1), Track(3, 2, 3, 1))
    assert sorted((track.first, track.last, track.parent) for track in without.tracks) == [(0, 3, 0), (2, 3, 0)]


@pytest.mark.parametrize(("distance_mm", "parents"), [(None, [0, 0]), (9.0, [0, 1, 1])])
def test_daughters_may_lie_farther_away_than_other_links_reach(discs, distance_mm, parents) -> None:
    sequence = discs({0: {1: (16, 10)}, 1: {1: (16, 11), 2: (16, 18)}})

    tracked = FrameLinker(max_distance_mm=3.0, max_division_distance_mm=distance_mm)(sequence)

    assert [track.parent for track in tracked.tracks] == parents


def test_overlap_is_the_intersection_over_union(discs) -> None:
    sequence = discs({0: {}, 1: {}}, shape=(8, 8))
    sequence.frames[0][:, 0:4], sequence.frames[1][:, 2:6] = 1, 1  # a third

    assert len(FrameLinker(cost="overlap", min_overlap=1 / 3, allow_division=False)(sequence).tracks) == 1
    assert len(FrameLinker(cost="overlap", min_overlap=0.34, allow_division=False)(sequence).tracks) == 2


def test_linking_is_repeatable_and_leaves_outlines_as_they_are(discs) -> None:
    rng = np.random.default_rng(0)
    sequence = discs({t: {k: tuple(rng.uniform(2, 30, 2)) for k in range(1, 6)} for t in range(4)})

    first, second = (FrameLinker(gap_frames=1)(sequence) for _ in range(2))

    assert first.tracks == second.tracks
    for frame, image in sequence.frames.items():
        assert np.array_equal(first.sequence.frames[frame], second.sequence.frames[frame])
        assert np.array_equal(first.sequence.frames[frame] > 0, image > 0)


def test_frames_without_objects_have_no_tracks(discs) -> None:
    assert FrameLinker()(discs({0: {}, 1: {}})).tracks == ()


@pytest.mark.parametrize(
    "knobs",
    [
        {"cost": "color"},
        {"max_distance_mm": 0.0},
        {"max_distance_mm": math.inf},
        {"min_overlap": 0.0},
        {"gap_frames": -1},
        {"max_division_distance_mm": -1.0},
    ],
)
def test_unfit_knobs_are_refused(knobs) -> None:
    with pytest.raises(UsageError, match=next(iter(knobs))):
        FrameLinker(**knobs)
