"""Tracks through the frames of sequences: GIF, page and still."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from browser import answer
from matplotlib.colors import to_rgb
from pictures import affine_of
from PIL import Image
from track_sequences import SHAPE, ZOOM, at, family, rgb_of, tracked_of

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.tracks import TrackedSequence
from medexp.engine._instance_colours import INSTANCE_COLOURS
from medexp.engine._track_table import colour_table
from medexp.engine.track_pictures import TrackDrawing, draw_tracks

_COLOURS = {tuple(round(255 * part) for part in to_rgb(colour)) for colour in INSTANCE_COLOURS}
_GREY = 0.5


def _flat(shape: tuple[int, ...] = SHAPE):
    """Images of one grey, but for a black and a white corner that fix the window."""
    pixels = np.full(shape, _GREY, dtype=np.float32)
    pixels.reshape(-1)[: pixels.size // 10], pixels.reshape(-1)[-pixels.size // 10 :] = 0.0, 1.0
    return lambda frame: pixels


def _drawn(tracked: TrackedSequence, folder: Path, form: str, **knobs) -> Path:
    (path,) = draw_tracks(
        tracked, _flat(tracked.sequence.geometry.shape), folder, drawing=TrackDrawing((form,), **knobs)
    )
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All pictures of the family, without ids."""
    folder = tmp_path_factory.mktemp("tracks") / "new"
    paths = draw_tracks(
        family()[0], _flat(), folder, drawing=TrackDrawing(trail_frames=3, frames_per_second=8.0, ids=False)
    )
    return {path.suffix: path for path in paths}


def _dots(frames: list[np.ndarray]) -> dict[int, set[tuple[int, ...]]]:
    """The colours at the centres of each track in the frames that it is in."""
    seen: dict[int, set[tuple[int, ...]]] = {}
    for frame, found in family()[1].items():
        for identity, centre in found.items():
            seen.setdefault(identity, set()).add(at(frames[frame], *centre))
    return seen


def test_files_are_named_after_the_sequence(files: dict[str, Path]) -> None:
    assert sorted(path.name for path in files.values()) == [
        f"cells%2F01_tracks.{form}" for form in ("gif", "html", "png")
    ]
    assert b"cells" not in files[".png"].read_bytes()
    assert "cells" not in files[".html"].read_text()


def test_a_track_has_one_colour_in_all_frames_and_no_other_near_it_has_it(files: dict[str, Path]) -> None:
    seen = _dots(rgb_of(files[".gif"]))
    assert {len(colours) for colours in seen.values()} == {1}
    (own,) = zip(*seen.values(), strict=True)
    assert set(own) <= _COLOURS
    assert len(set(own)) == 6


def test_the_trails_of_the_still_pass_through_all_centres(files: dict[str, Path]) -> None:
    (still,) = rgb_of(files[".png"])
    seen = _dots([still] * 5)
    assert seen == _dots(rgb_of(files[".gif"]))
    for identity, places in ((1, [(5, 9), (5, 33)]), (2, [(20, 13)]), (3, [(15, 29)])):
        assert {at(still, *place) for place in places} == seen[identity]


def test_a_division_draws_a_branch_to_each_daughter(files: dict[str, Path]) -> None:
    frames, seen = rgb_of(files[".gif"]), _dots(rgb_of(files[".gif"]))
    for daughter, end in ((3, (15, 26)), (4, (25, 26))):
        halfway = ((20 + end[0]) / 2, (16 + end[1]) / 2)
        assert {at(frames[2], *halfway)} == seen[daughter]
        assert at(frames[1], *halfway) not in _COLOURS


def test_a_line_crosses_a_gap(files: dict[str, Path]) -> None:
    frames = rgb_of(files[".gif"])
    assert {at(frames[4], 35, 34)} == _dots(frames)[6]
    assert at(frames[3], 35, 34) not in _COLOURS


def test_steps_fade_and_then_are_gone(tmp_path: Path) -> None:
    tracked, _ = family()
    with_trails, without = (
        rgb_of(_drawn(tracked, tmp_path / str(n), "png", trail_frames=n, ids=False)) for n in (3, 0)
    )
    assert np.array_equal(with_trails, without)  # the still has all of them
    pages = [_frames_of(_drawn(tracked, tmp_path / str(n), "html", trail_frames=n, ids=False)) for n in (3, 0)]
    trail, none = (frames[4] for frames in pages)
    places = [(5, 9 + 8 * step) for step in range(4)]  # from the oldest step to the newest
    own = np.array(at(trail, 5, 37))
    left = [np.abs(own - np.array(at(trail, *place))).sum() for place in places[1:]]
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0
    assert at(trail, *places[0]) == at(none, *places[0])
    assert all(at(none, *place) not in _COLOURS for place in places[:3])


def test_areas_are_tinted_and_outlined_in_the_colour_of_the_track(tmp_path: Path) -> None:
    tracked = tracked_of({0: {7: (20, 30)}}, radius=6)
    (still,) = rgb_of(_drawn(tracked, tmp_path, "png", ids=False))
    colour = np.array(at(still, 20, 30))
    outside, inside = np.array(at(still, 20, 40)), np.array(at(still, 17, 33))
    assert np.ptp(outside) == 0
    np.testing.assert_allclose(inside, 0.75 * outside + 0.25 * colour, atol=2)
    edges = still[14 * ZOOM : 27 * ZOOM, 24 * ZOOM : 37 * ZOOM]
    for line in (edges[0], edges[-1], edges[:, 0], edges[:, -1]):
        assert (line == colour).all()
    assert (still[14 * ZOOM - 1, 24 * ZOOM : 37 * ZOOM] == outside).all()


@pytest.mark.parametrize("side", [1, 6])
def test_a_gif_has_the_very_colours_of_the_png(tmp_path: Path, side: int) -> None:
    centres = {number + 1: (4 + 5 * row, 7 + 5 * column) for number, (row, column) in enumerate(np.ndindex(side, side))}
    tracked = tracked_of({0: centres})
    pixels = np.random.default_rng(0).uniform(size=SHAPE).astype(np.float32)
    drawing = TrackDrawing(("gif", "png"), trail_frames=0, ids=False)
    (gif,), (png,) = map(rgb_of, draw_tracks(tracked, lambda frame: pixels, tmp_path, drawing=drawing))
    assert np.array_equal(gif[: SHAPE[0] * ZOOM], png[: SHAPE[0] * ZOOM])
    assert len({at(png, *centre) for centre in centres.values()}) == min(side**2, 12)


@pytest.mark.parametrize("count", [0, 1, 12, 64])
def test_a_table_of_colours_has_room_for_all_tracks(count: int) -> None:
    colours = sorted(_COLOURS)[:count]
    table = colour_table(colours * 2)
    assert len(table) <= 255
    assert {*colours, (0, 0, 0), (255, 255, 255)} <= set(map(tuple, table.tolist()))


def test_ids_stand_at_the_objects_that_have_room_for_them(tmp_path: Path) -> None:
    small = Geometry.from_spacing((200, 640), (1.0, 1.0), unit="px")
    tracked = tracked_of({0: {123: (50, 100)}}, geometry=small, radius=15)
    tracked.sequence.frames[0][150:155, 400:405] = 45
    with_ids, without = (rgb_of(_drawn(tracked, tmp_path / str(ids), "png", ids=ids))[0] for ids in (True, False))
    rows, columns = np.nonzero((with_ids != without).any(axis=-1))
    assert [rows.min() >= 35, rows.max() < 50, columns.min() >= 85, columns.max() <= 115] == [True] * 4
    written = with_ids[rows, columns]
    assert written.max(axis=-1).min() < 10
    assert written.min(axis=-1).max() > 200


def test_a_gif_has_the_frames_and_durations_that_were_asked_for(files: dict[str, Path]) -> None:
    with Image.open(files[".gif"]) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (5, 0)
        assert gif.size == (SHAPE[1] * ZOOM, SHAPE[0] * ZOOM + 18)
        durations = []
        for frame in range(5):
            gif.seek(frame)
            durations.append(gif.info["duration"])
    assert durations == [120] * 5  # 1/8 s in hundredths


def test_frames_without_a_change_are_frames_all_the_same(tmp_path: Path) -> None:
    tracked = tracked_of({frame: {} for frame in range(3, 7)})
    path = _drawn(tracked, tmp_path, "gif")
    assert len(rgb_of(path)) == 4
    assert not any(np.ptp(frame, axis=-1).any() for frame in rgb_of(path))


def test_a_single_frame_and_no_images(tmp_path: Path) -> None:
    paths = draw_tracks(tracked_of({0: {1: (20, 30)}}), None, tmp_path)
    assert [len(rgb_of(path)) for path in paths if path.suffix != ".html"] == [1, 1]
    assert at(rgb_of(paths[-1])[0], 5, 5) == (0, 0, 0)


def _frames_of(page: Path) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(BytesIO(base64.b64decode(one))).convert("RGB")) for one in found]


def test_a_page_contains_each_frame_and_no_outside_address(files: dict[str, Path]) -> None:
    frames = _frames_of(files[".html"])
    assert len(frames) == 5
    assert all(np.array_equal(one, other) for one, other in zip(frames, rgb_of(files[".gif"]), strict=True))
    words = re.sub(r"base64,[^\"]+", "", files[".html"].read_text())
    assert not re.search(r"https?:|//|url\(|import|fetch|src=\"(?!data:)|href", words.replace("// A slider", ""))
    assert "default-src 'none'; img-src data:" in words


def test_a_page_plays_and_follows_keys_and_sliders(files: dict[str, Path]) -> None:
    told = answer(
        files[".html"],
        """
        const seen = () => [...document.querySelectorAll("img.shown")].map(one => +one.dataset.frame);
        const told = { start: seen(), width: document.querySelector("img.shown").naturalWidth };
        const told_after = (name, what) => { what(); told[name] = seen(); };
        told_after("right", () => key("ArrowRight"));
        told_after("end", () => key("End"));
        told_after("beyond", () => key("ArrowRight"));
        told_after("home", () => key("Home"));
        told_after("slide", () => slide("slider", 3));
        key("+"); told.faster = document.getElementById("rate").textContent;
        key(" "); told.playing = document.getElementById("play").textContent;
        const met = new Set();
        for (let i = 0; i < 100; i++) { await new Promise(done => setTimeout(done, 20)); met.add(seen()[0]); }
        told.met = [...met].sort();
        key(" "); told.paused = document.getElementById("play").textContent;
        return told;
        """,
    )
    assert told == {
        "start": [0], "width": 600, "right": [1], "end": [4], "beyond": [4], "home": [0], "slide": [3],
        "faster": "13", "playing": "pause", "met": [0, 1, 2, 3, 4], "paused": "play",
    }  # fmt: skip


def test_a_volume_is_looked_at_along_its_widest_voxels(tmp_path: Path) -> None:
    geometry = Geometry.from_spacing((30, 40, 10), (1.0, 1.0, 3.0))
    tracked = tracked_of({0: {1: (8, 10, 2)}, 1: {1: (20, 30, 7)}}, geometry=geometry)
    pixels = np.zeros((30, 40, 10), dtype=np.float32)
    pixels[2, 35, 4], pixels[25, 3, 9] = 1.0, 1.0
    pixels[:, :, 0] = np.linspace(0, 1, 30)[:, None]
    paths = draw_tracks(tracked, lambda frame: pixels, tmp_path, drawing=TrackDrawing(("png", "html"), ids=False))
    (still,) = rgb_of(paths[0])
    scale = 640 // 40
    assert still.shape == (30 * scale + 18, 40 * scale, 3)
    place = {name: (int((row + 0.5) * scale), int((column + 0.5) * scale)) for name, row, column in (
        ("first", 8, 10), ("last", 20, 30), ("bright", 2, 35), ("dark", 2, 36))}  # fmt: skip
    colour = tuple(still[place["last"]].tolist())
    assert colour in _COLOURS
    assert tuple(still[place["first"]].tolist()) == colour
    assert still[place["bright"]].tolist() == [255, 255, 255]
    assert still[place["dark"]].max() < 40
    assert "maximum along axis 2" in paths[1].read_text()


def test_lengths_are_true_and_the_world_is_upright(tmp_path: Path) -> None:
    """Columns of twice the distance are twice as wide; of a patient's plane x runs to the right and y upwards."""
    wide = Geometry.from_spacing((30, 30), (1.0, 2.0))
    assert rgb_of(_drawn(tracked_of({0: {1: (5, 10)}}, geometry=wide), tmp_path, "png"))[0].shape == (300 + 18, 600, 3)
    world = Geometry((30, 64), affine_of((0, 1), (1, 1), (1.0, 1.0)))
    (still,) = rgb_of(_drawn(tracked_of({0: {1: (5, 10)}}, geometry=world), tmp_path, "png", ids=False))
    assert still.shape == (640 + 18, 300, 3)
    assert tuple(still[int((64 - 10.5) * 10), int(5.5 * 10)].tolist()) in _COLOURS


def test_a_large_frame_fits_a_screen(tmp_path: Path) -> None:
    large = Geometry.from_spacing((100, 5000), (1.0, 1.0), unit="px")
    (still,) = rgb_of(_drawn(tracked_of({0: {1: (50, 4000)}}, geometry=large, radius=30), tmp_path, "png", ids=False))
    assert still.shape[1] == 2048
    assert tuple(still[round(50.5 * 0.4096), int(4000.5 * 0.4096)].tolist()) in _COLOURS


def test_missed_objects_are_dotted_and_false_ones_crossed_out(tmp_path: Path) -> None:
    tracked = tracked_of({0: {1: (10, 10), 2: (10, 40), 3: (30, 10)}}, radius=4)
    # 7 of its 9 rows are found by the first, 4 of 9 by the second, and none.
    known = tracked_of({0: {7: (12, 10), 8: (15, 40), 9: (30, 50)}}, radius=4).sequence.frames
    drawing = TrackDrawing(("png",), ids=False)
    with_marks, without = (
        rgb_of(draw_tracks(tracked, _flat(), tmp_path, reference=one, drawing=drawing)[0])[0] for one in (known, None)
    )
    changed = (with_marks != without).any(axis=-1)[: SHAPE[0] * ZOOM]
    expected = np.zeros_like(changed)
    for row, column in ((15, 40), (30, 50)):
        box = expected[(row - 4) * ZOOM : (row + 5) * ZOOM, (column - 4) * ZOOM : (column + 5) * ZOOM]
        box[[0, -1]] = box[:, [0, -1]] = True
    assert {tuple(colour) for colour in with_marks[: SHAPE[0] * ZOOM][expected].tolist()} == {
        (0, 0, 0),
        (255, 255, 255),
    }
    crossed = changed & ~expected
    rows, columns = np.nonzero(crossed)
    for row, column in ((10, 40), (30, 10)):
        by_centre = (abs(rows - row * ZOOM - 5) < ZOOM) & (abs(columns - column * ZOOM - 5) < ZOOM)
        assert by_centre.sum() > 20
        crossed[rows[by_centre], columns[by_centre]] = False
        assert at(with_marks, row, column) == at(without, row, column)  # the dot stays
    assert not crossed.any()


def test_frames_are_read_one_after_the_other(tmp_path: Path) -> None:
    read: list[int] = []
    pixels = _flat()(0)
    tracked, _ = family()
    draw_tracks(tracked, lambda frame: read.append(frame) or pixels, tmp_path, drawing=TrackDrawing(("gif",)))
    assert read[-5:] == [0, 1, 2, 3, 4]
    assert len(read) <= 10


def test_a_reference_of_another_shape_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the reference of frame 0 of sequence cells/01 needs .* \(40, 60\), got \(4, 6\)"
    ):
        draw_tracks(family()[0], None, tmp_path, reference={0: np.zeros((4, 6), dtype=np.int32)})


def test_an_image_of_another_shape_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image of frame 0 of sequence cells/01 needs the objects' shape \(40, 60\)"):
        draw_tracks(family()[0], lambda frame: np.zeros((60, 40), dtype=np.float32), tmp_path)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"formats": ("svg",)}, "formats needs one of gif, html, png"),
        ({"trail_frames": -1}, "trail_frames needs a whole number from 0 on"),
        ({"frames_per_second": 0.0}, "frames_per_second needs a value above 0 and up to 50"),
        ({"frames_per_second": 51.0}, "frames_per_second needs a value above 0 and up to 50"),
    ],
)
def test_values_without_a_meaning_are_refused(knobs: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        TrackDrawing(**knobs)
