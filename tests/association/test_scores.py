from __future__ import annotations

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from medexp.association.ctc import write_result
from medexp.association.scores import tracking_scores
from medexp.core.errors import DataError
from medexp.core.tracks import Track, TrackedSequence


def _reference(discs) -> TrackedSequence:
    """Three frames; object 1 stays, object 2 divides after frame 1 into 3 and 4: 7 vertices, 5 edges."""
    frames = {
        0: {1: (5, 5), 2: (20, 20)},
        1: {1: (5, 6), 2: (20, 20)},
        2: {1: (5, 7), 3: (15, 20), 4: (25, 20)},
    }
    tracks = (Track(1, 0, 2, 0), Track(2, 0, 1, 0), Track(3, 2, 2, 2), Track(4, 2, 2, 2))
    return TrackedSequence(discs(frames), tracks)


def _changed(tracked: TrackedSequence, frame: int, change, *tracks: Track) -> TrackedSequence:
    frames = {number: image.copy() for number, image in tracked.sequence.frames.items()}
    change(frames[frame])
    return TrackedSequence(replace(tracked.sequence, frames=frames), tracks or tracked.tracks)


def _erase(identity: int):
    def change(image: np.ndarray) -> None:
        image[image == identity] = 0

    return change


def test_the_reference_itself_has_all_scores_1(discs) -> None:
    reference = _reference(discs)

    assert tracking_scores(reference, reference, reference.sequence.frames) == {"SEG": 1.0, "DET": 1.0, "TRA": 1.0}


def test_an_empty_result_has_all_scores_0(discs) -> None:
    reference = _reference(discs)
    empty = TrackedSequence(discs({0: {}, 1: {}, 2: {}}), ())

    assert tracking_scores(empty, reference, reference.sequence.frames) == {"SEG": 0.0, "DET": 0.0, "TRA": 0.0}


def test_a_missing_object_costs_its_vertex_and_its_edge(discs) -> None:
    reference = _reference(discs)
    result = _changed(reference, 2, _erase(1), Track(1, 0, 1, 0), *reference.tracks[1:])

    scores = tracking_scores(result, reference, reference.sequence.frames)

    assert scores["SEG"] == pytest.approx(6 / 7)
    assert scores["DET"] == pytest.approx(1 - 10 / 70)
    assert scores["TRA"] == pytest.approx(1 - (10 + 1.5) / (70 + 1.5 * 5))


def test_a_spurious_object_costs_its_vertex(discs) -> None:
    reference = _reference(discs)

    def add(image: np.ndarray) -> None:
        image[0:2, 28:30] = 9

    scores = tracking_scores(_changed(reference, 0, add, *reference.tracks, Track(9, 0, 0, 0)), reference)

    assert scores["DET"] == pytest.approx(1 - 1 / 70)
    assert scores["TRA"] == pytest.approx(1 - 1 / 77.5)


def test_one_object_for_two_costs_a_split_and_the_edges_of_both(discs) -> None:
    reference = _reference(discs)

    def merge(image: np.ndarray) -> None:
        image[image == 4] = 3

    result = _changed(reference, 2, merge, *reference.tracks[:3])

    scores = tracking_scores(result, reference)

    assert scores["DET"] == pytest.approx(1 - 5 / 70)
    assert scores["TRA"] == pytest.approx(1 - (5 + 2 * 1.5) / 77.5)


def test_links_that_are_missing_wrong_or_of_another_meaning_cost_their_edges(discs) -> None:
    reference = _reference(discs)

    def swap(image: np.ndarray) -> None:
        image[image == 3] = 2

    # Without parents two edges are missing; where a daughter keeps her mother's id, the meaning of one edge differs.
    no_parents = replace(reference, tracks=(*reference.tracks[:2], Track(3, 2, 2, 0), Track(4, 2, 2, 0)))
    kept = _changed(reference, 2, swap, reference.tracks[0], Track(2, 0, 2, 0), Track(4, 2, 2, 0))
    other_parent = replace(reference, tracks=(*reference.tracks[:3], Track(4, 2, 2, 1)))

    assert tracking_scores(no_parents, reference)["TRA"] == pytest.approx(1 - 2 * 1.5 / 77.5)
    assert tracking_scores(kept, reference)["TRA"] == pytest.approx(1 - (1 + 1.5) / 77.5)
    assert tracking_scores(other_parent, reference)["TRA"] == pytest.approx(1 - (1 + 1.5) / 77.5)
    assert tracking_scores(kept, reference)["DET"] == 1.0


def test_exactly_half_of_an_object_does_not_find_it(discs) -> None:
    sequence = discs({0: {}}, shape=(8, 8))
    sequence.frames[0][0:4, 0:4] = 1
    reference = TrackedSequence(sequence, (Track(1, 0, 0, 0),))

    def halve(image: np.ndarray) -> None:
        image[0:2] = 0

    def more(image: np.ndarray) -> None:
        image[0:2] = 0
        image[0, 0] = 1

    assert tracking_scores(_changed(reference, 0, halve), reference, sequence.frames)["SEG"] == 0.0
    assert tracking_scores(_changed(reference, 0, more), reference, sequence.frames)["SEG"] == pytest.approx(9 / 16)


def test_nothing_to_find_is_undefined(discs) -> None:
    empty = TrackedSequence(discs({0: {}}), ())

    assert all(np.isnan(value) for value in tracking_scores(empty, empty, empty.sequence.frames).values())


def test_other_frames_or_shapes_are_refused(discs) -> None:
    reference = _reference(discs)
    shorter = TrackedSequence(discs({0: {}, 1: {}}), ())
    smaller = TrackedSequence(discs({0: {}, 1: {}, 2: {}}, shape=(16, 16)), ())

    with pytest.raises(DataError, match="frame 2"):
        tracking_scores(shorter, reference)
    with pytest.raises(DataError, match="one shape"):
        tracking_scores(smaller, reference)


@pytest.mark.parametrize("seed", range(4))
def test_scores_agree_with_py_ctcmetrics(discs, tmp_path: Path, seed: int) -> None:
    evaluate = pytest.importorskip("ctc_metrics.scripts.evaluate")
    rng = np.random.default_rng(seed)

    def some(radius: float) -> TrackedSequence:
        centres = {t: {k: tuple(c + rng.normal(0, 1.2, 2)) for k, c in start.items()} for t in range(5)}
        sequence = discs(centres, radius=radius)
        present = [np.unique(image) for image in sequence.frames.values()]
        tracks = []
        for identity in start:
            frames = [t for t in range(5) if identity in present[t]]
            for frame in set(range(5)) - set(range(frames[0], frames[-1] + 1)):
                _erase(identity)(sequence.frames[frame])
            tracks.append(Track(identity, frames[0], frames[-1], 0))
        return TrackedSequence(sequence, tuple(tracks))

    start = {k: tuple(rng.uniform(4, 28, 2)) for k in range(1, 7)}
    reference, result = some(2.2), some(3.0)
    write_result(result, tmp_path / "01_RES")
    for folder, name in (("TRA", "man_track"), ("SEG", "man_seg")):
        (tmp_path / "01_GT" / folder).mkdir(parents=True)
        for frame, image in reference.sequence.frames.items():
            tifffile.imwrite(tmp_path / "01_GT" / folder / f"{name}{frame:03d}.tif", image.astype(np.uint16))
    lines = [f"{track.identity} {track.first} {track.last} {track.parent}\n" for track in reference.tracks]
    (tmp_path / "01_GT" / "TRA" / "man_track.txt").write_text("".join(lines))

    with contextlib.redirect_stdout(io.StringIO()):
        expected = evaluate.evaluate_sequence(
            str(tmp_path / "01_RES"), str(tmp_path / "01_GT"), ["Valid", "SEG", "DET", "TRA"], threads=1
        )
    scores = tracking_scores(result, reference, reference.sequence.frames)

    assert expected["Valid"] == 1
    assert {name: expected[name] for name in scores} == pytest.approx(scores)
    assert 0 < scores["TRA"] < 1
