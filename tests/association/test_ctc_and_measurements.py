from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from medexp.association.ctc import write_result
from medexp.association.measurements import measured_tracks, places_of
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.tracks import Sequence, Track, TrackedSequence
from medexp.data.sequences import read_tracked


def _tracked(discs, dims: int = 2) -> TrackedSequence:
    """An object that moves along the last axis and divides."""
    rest = (8,) * (dims - 1)
    sequence = discs(
        {4: {1: (*rest, 4)}, 5: {1: (*rest, 7)}, 6: {300: (*rest, 5), 301: (*rest, 11)}}, shape=(16,) * dims
    )
    return TrackedSequence(sequence, (Track(1, 4, 5, 0), Track(300, 6, 6, 1), Track(301, 6, 6, 1)))


@pytest.mark.parametrize("dims", [2, 3])
def test_what_is_written_is_read_again(discs, tmp_path: Path, dims: int) -> None:
    tracked = _tracked(discs, dims)

    files = write_result(tracked, tmp_path / "01_RES")
    read = read_tracked("01", tmp_path / "01_RES", spatial_dims=dims, table="res_track.txt")

    assert [file.name for file in files] == ["mask004.tif", "mask005.tif", "mask006.tif", "res_track.txt"]
    assert read.tracks == tracked.tracks
    assert list(read.sequence.frames) == [4, 5, 6]
    for frame, image in tracked.sequence.frames.items():
        assert np.array_equal(read.sequence.frames[frame], image)


def test_more_tracks_than_16_bits_tell_apart_are_refused(discs, tmp_path: Path) -> None:
    sequence = discs({0: {65536: (5, 5)}})

    with pytest.raises(DataError, match=r"65535.*got 65536"):
        write_result(TrackedSequence(sequence, (Track(65536, 0, 0, 0),)), tmp_path / "01_RES")
    assert not (tmp_path / "01_RES").exists()


def test_frames_of_another_result_are_not_mixed_in(discs, tmp_path: Path) -> None:
    write_result(_tracked(discs), tmp_path)

    write_result(_tracked(discs), tmp_path)
    with pytest.raises(UsageError, match=r"mask004\.tif"):
        write_result(TrackedSequence(discs({0: {1: (5, 5)}}), (Track(1, 0, 0, 0),)), tmp_path)


def test_ways_are_measured_in_mm() -> None:
    image = np.zeros((3, 4, 6), dtype=np.int32)
    image[0, 0, 0] = image[1, 2, 0] = image[2, 2, 3] = 1  # 2 rows down, then 3 columns to the right
    sequence = Sequence("01", dict(enumerate(image)), Geometry.from_spacing((4, 6), (2.0, 1.0)))
    tracked = TrackedSequence(sequence, (Track(1, 0, 2, 0),))

    places = places_of(tracked)
    (row,) = measured_tracks(tracked, places).to_dict("records")

    assert places[["center_0_mm", "center_1_mm"]].to_numpy().tolist() == [[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]]
    assert places["area_mm2"].tolist() == [2.0, 2.0, 2.0]
    assert row["path_length_mm"] == 7.0
    assert row["net_displacement_mm"] == 5.0
    assert row["mean_speed_mm_per_frame"] == 3.5
    assert row["growth_per_frame"] == 0.0


def test_growth_is_the_rate_of_an_exponential() -> None:
    images = {frame: np.zeros((4, 8), dtype=np.int32) for frame in range(4)}
    for frame, image in images.items():
        image.reshape(-1)[: 2**frame] = 1
    tracked = TrackedSequence(Sequence("01", images, Geometry.from_spacing((4, 8), (0.3, 0.7))), (Track(1, 0, 3, 0),))

    assert measured_tracks(tracked, places_of(tracked))["growth_per_frame"].tolist() == [pytest.approx(math.log(2))]


@pytest.mark.parametrize(("dims", "column"), [(2, "area_px2"), (3, "volume_px3")])
def test_units_are_in_the_names_and_a_single_frame_has_no_speed(dims: int, column: str) -> None:
    image = np.ones((2,) * dims, dtype=np.int32)
    geometry = Geometry.from_spacing(image.shape, (1.0,) * dims, unit="px")
    tracked = TrackedSequence(Sequence("01", {7: image}, geometry), (Track(1, 7, 7, 0),))

    places = places_of(tracked)
    (row,) = measured_tracks(tracked, places).to_dict("records")

    assert places[column].tolist() == [2.0**dims]
    assert row["path_length_px"] == row["net_displacement_px"] == 0.0
    assert math.isnan(row["mean_speed_px_per_frame"])
    assert math.isnan(row["growth_per_frame"])


def test_places_are_there_for_each_track_and_frame(discs) -> None:
    tracked = _tracked(discs)

    places = places_of(tracked)

    assert places[["track", "frame"]].to_numpy().tolist() == [[1, 4], [1, 5], [300, 6], [301, 6]]
    assert measured_tracks(tracked, places)["track"].tolist() == [1, 300, 301]
