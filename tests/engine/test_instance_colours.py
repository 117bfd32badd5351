"""Colours and ids of instances."""

from __future__ import annotations

import base64
import re
import zlib
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from pictures import ORGAN, halves, image_of, panels, with_instances
from skimage.graph import RAG

from medexp.engine._instance_colours import INSTANCE_COLOURS, Neighbours
from medexp.engine.overlays import PALETTE, Drawing, draw_overlay, overlay_figure
from medexp.engine.viewer import write_viewer


def _cells(shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """The voxels that are nearest to each of some random points: all of space, without gaps."""
    points = np.random.default_rng(seed).uniform(0, shape, size=(count, len(shape)))
    grid = np.moveaxis(np.indices(shape), 0, -1)[..., None, :]
    return 1 + ((grid - points) ** 2).sum(axis=-1).argmin(axis=-1)


def _numbers(*images: np.ndarray) -> dict[int, int]:
    neighbours = Neighbours()
    for image in images:
        neighbours.add(image)
    return neighbours.colour_numbers()


@pytest.mark.parametrize(("shape", "count"), [((60, 80), 70), ((16, 18, 20), 60)])
def test_no_two_instances_that_touch_share_a_colour(shape: tuple[int, ...], count: int) -> None:
    cells = _cells(shape, count, seed=0)
    numbers = _numbers(cells)
    touching = RAG(cells, connectivity=len(shape)).edges
    assert len(touching) > count
    assert all(numbers[one] != numbers[other] for one, other in touching)
    assert set(numbers) == set(np.unique(cells).tolist())


def test_corners_touch_too() -> None:
    corners = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 2]])
    assert len(set(_numbers(corners).values())) == 2
    assert len(set(_numbers(corners[::-1]).values())) == 2


def test_tracks_that_touch_in_any_frame_differ_in_all_however_many_they_are() -> None:
    numbers = _numbers(*(np.array([pair]) for pair in combinations(range(1, 21), 2)))
    assert len(set(numbers.values())) == 20
    assert len({INSTANCE_COLOURS[number] for number in numbers.values()}) == 20


def test_near_instances_differ_where_colours_are_left() -> None:
    grid = np.zeros((60, 60), dtype=np.int32)
    for number, (row, column) in enumerate(np.ndindex(6, 6)):
        grid[10 * row : 10 * row + 7, 10 * column : 10 * column + 7] = number + 1
    numbers = np.array(list(_numbers(grid).values())).reshape(6, 6)
    for step in ((0, 1), (1, 0), (1, 1)):
        assert (numbers[step[0] :, step[1] :] != numbers[: 6 - step[0], : 6 - step[1]]).all()
    assert numbers.max() < 12


def test_colours_are_the_same_for_the_same_instances() -> None:
    cells = _cells((40, 40), 30, seed=1)
    assert _numbers(cells) == _numbers(cells.copy())
    assert _numbers(np.zeros((4, 4), dtype=np.int32)) == {}
    assert len(set(INSTANCE_COLOURS)) == len(INSTANCE_COLOURS) == 64


def _eight() -> np.ndarray:
    """Two instances that touch, whose ids are as many apart as there are colours of classes."""
    instances = np.where(halves() == 2, 1 + len(PALETTE), halves())
    instances[0:3, 0:18] = np.repeat(np.arange(2, 8), 3)
    return instances


def test_instances_that_touch_look_different_in_pictures_and_pages(tmp_path: Path) -> None:
    image, labels = image_of((40, 60)), dict.fromkeys(range(1, 9), 1)
    shown = with_instances(image, _eight(), labels)
    panel = panels(overlay_figure(image, shown, None, filled=True))[1]
    seen = [np.median(panel.rgb[(abs(panel.x - x) < 5) & (abs(panel.y - 20) < 5)], axis=0) for x in (15, 42)]
    assert np.abs(seen[0] - seen[1]).max() > 0.1
    # The page holds a number for each look, of which instances that touch have two.
    page = write_viewer(image, shown, None, tmp_path / "page.html").read_text()
    packed = re.search(r'id="layer-prediction">([^<]+)<', page)
    assert packed is not None
    layer = np.frombuffer(zlib.decompress(base64.b64decode(packed.group(1))), np.uint8).reshape(40, 60)
    assert layer[20, 15] != layer[20, 42]


def test_an_instance_has_one_colour_in_all_planes() -> None:
    image = image_of((16, 18, 20))
    cells = _cells((16, 18, 20), 12, seed=3)
    figure = overlay_figure(image, with_instances(image, cells, dict.fromkeys(range(1, 13), 1)), None, filled=True)
    colour_of: dict[int, set] = {}
    for axes, axis in zip(figure.axes[1::2], range(3), strict=True):
        index = int(figure.axes[2 * axis].get_ylabel().split()[-1])
        cut, over = cells.take(index, axis=axis), axes.images[1].get_array()
        for identity in np.unique(cut[cut > 0]).tolist():
            colour_of.setdefault(identity, set()).update(map(tuple, over[cut == identity][:, :3].tolist()))
    assert {len(colours) for colours in colour_of.values()} == {1}
    assert next(iter(colour_of[1])) in {to_rgb(colour) for colour in INSTANCE_COLOURS}


def _ids(figure: Figure) -> dict[str, tuple[float, float]]:
    return {
        text.get_text(): text.get_position()
        for axes in figure.axes
        for text in axes.texts
        if (text.get_gid() or "").startswith("id ")
    }


def test_ids_stand_in_the_instances_that_have_room_for_them() -> None:
    image, instances = image_of((80, 120)), halves((80, 120))
    instances[0, 0] = 3
    shown = with_instances(image, instances, {1: 1, 2: 1, 3: 1})
    found = _ids(overlay_figure(image, shown, None, filled=False, ids=True))
    assert found == {"1": pytest.approx((17.5, 20.5), abs=1), "2": pytest.approx((42.5, 20.5), abs=1)}
    assert not _ids(overlay_figure(image, shown, None, filled=False))


def test_an_id_stands_inside_of_a_hollow_instance() -> None:
    image, ring = image_of((40, 60)), np.zeros((40, 60), dtype=np.int32)
    ring[4:36, 10:50] = 1
    ring[10:30, 16:44] = 0
    ((column, row),) = _ids(
        overlay_figure(image, with_instances(image, ring, {1: 1}), None, filled=True, ids=True)
    ).values()
    assert ring[int(row), int(column)] == 1


def test_an_id_is_white_with_a_black_rim(tmp_path: Path) -> None:
    image = image_of((20, 30), fill=1.0)
    shown = with_instances(image, np.pad(np.ones((16, 26), np.int32), 2), {1: 1}, ORGAN)
    with_id, without = (panels(overlay_figure(image, shown, None, filled=False, ids=ids))[1] for ids in (True, False))
    changed = np.abs(with_id.rgb - without.rgb).max(axis=-1) > 0.05
    assert with_id.rgb[changed].min() < 0.1
    assert (np.hypot(with_id.x - 15, with_id.y - 10)[changed] < 2).all()
    files = [
        draw_overlay(image, shown, None, tmp_path / str(ids), drawing=Drawing(styles=("fill",), ids=ids))[0]
        for ids in (True, False)
    ]
    assert files[0].read_bytes() != files[1].read_bytes()
