"""Instances, boxes and places in pictures."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from pictures import (
    LINE_PX,
    OPACITY,
    ORGAN,
    TWO,
    Panel,
    affine_of,
    distance_to_border,
    halves,
    image_of,
    panels,
    predicted,
    rectangle,
    with_instances,
    with_objects,
)

from medexp.core.errors import DataError
from medexp.core.geometry import Geometry
from medexp.core.types import Case, Image, Prediction
from medexp.engine.overlays import PALETTE, overlay_figure


def extent(panel: Panel) -> np.ndarray:
    """Smallest and largest x and y of what is coloured."""
    x, y = panel.x[panel.coloured], panel.y[panel.coloured]
    return np.array([x.min(), x.max(), y.min(), y.max()])


ORIENTATIONS = [
    ((0, 1, 2), (1, 1, 1), (1.0, 1.0, 1.0)),
    ((0, 1, 2), (-1, -1, 1), (0.8, 0.8, 2.5)),
    ((2, 0, 1), (1, -1, 1), (3.0, 1.0, 2.0)),
    ((1, 0, 2), (-1, 1, -1), (1.0, 2.0, 1.5)),
    ((2, 1, 0), (-1, -1, -1), (1.0, 0.5, 0.7)),
    ((1, 0), (-1, 1), (1.0, 2.0)),
    ((0, 1), (1, -1), (0.3, 0.5)),
    ((0, 1), (1, 1), None),
]


def placed(permutation: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] | None) -> Image:
    shape = (30, 24, 20)[: len(permutation)]
    if spacing is None:
        return image_of(shape)
    geometry = Geometry(shape=shape, affine=affine_of(permutation, signs, spacing))
    return Image(Case("case", "group", ()), np.full((1, *shape), 0.5, np.float32), None, geometry)


@pytest.mark.parametrize(("permutation", "signs", "spacing"), ORIENTATIONS[::3])
def test_a_rectangle_lies_around_the_voxels_of_its_box(permutation, signs, spacing) -> None:
    image = placed(permutation, signs, spacing)
    low, high = [4, 11, 2], [13, 15, 9]
    slices = [slice(*ends) for ends in zip(low, high, strict=True)][: len(permutation)]
    voxels = predicted(image, rectangle(image.geometry.shape, *slices))
    box = with_objects(image, [low[: len(slices)] + high[: len(slices)]], [1])
    filled = panels(overlay_figure(image, voxels, voxels, filled=True))[::2]
    outlined = panels(overlay_figure(image, voxels, box, filled=False))[::2]
    for ours, expected in zip(outlined, filled, strict=True):
        off_px = np.abs(extent(ours) - extent(expected)) * ours.unit_px
        assert off_px.max() < LINE_PX / 2 + 2
        # An outline, not an area.
        x0, x1, y0, y1 = extent(expected)
        inside = distance_to_border(ours, (x0, x1), (y0, y1)) * ours.unit_px < -LINE_PX
        assert inside.any()
        assert not ours.coloured[inside].any()


@pytest.mark.parametrize(("permutation", "signs", "spacing"), ORIENTATIONS[1::3])
def test_a_cross_lies_on_the_voxel_of_its_place(permutation, signs, spacing) -> None:
    image = placed(permutation, signs, spacing)
    index = (13, 11, 7)[: len(permutation)]
    voxel = predicted(image, rectangle(image.geometry.shape, *(slice(i, i + 1) for i in index)))
    middle = [i + 0.5 for i in index]
    place = with_objects(image, [middle + middle], [1])
    filled = panels(overlay_figure(image, voxel, voxel, filled=True))[::2]
    crossed = panels(overlay_figure(image, voxel, place, filled=False))[::2]
    for ours, expected in zip(crossed, filled, strict=True):
        assert 60 < ours.coloured.sum() < 260  # two strokes of 1.2 by 6 points
        for axis in ("x", "y"):
            off = getattr(ours, axis)[ours.coloured].mean() - getattr(expected, axis)[expected.coloured].mean()
            assert abs(off) * ours.unit_px < 1.5


def test_a_volume_shows_the_boxes_that_meet_the_slice_and_no_other() -> None:
    image = image_of((30, 30, 30))
    boxes = [[5, 5, 5, 15, 15, 15], [9, 18, 5, 11, 28, 15], [11, 18, 18, 20, 28, 28], [8.2, 2, 2, 8.2, 2, 2]]
    shown = with_objects(image, boxes, [1, 1, 1, 1])
    figure = overlay_figure(image, shown, shown, filled=False)
    slices = [int(axes.get_ylabel().split()[-1]) for axes in figure.axes[::2]]
    for axis, index, axes in zip(range(3), slices, figure.axes[::2], strict=True):
        met = [box for box in boxes if box[axis] != box[axis + 3] and box[axis] < index + 1 and box[axis + 3] > index]
        assert len([patch for patch in axes.patches if isinstance(patch, Rectangle)]) == len(met)
        assert len(axes.lines) == sum(np.floor(box[axis]) == index for box in boxes if box[axis] == box[axis + 3])


def test_a_box_is_met_from_its_first_voxel_to_its_last() -> None:
    image = image_of((12, 12, 12))
    for first in range(12):
        # The fat box fixes where axis 0 is cut: at slice 5.
        fat, other = [5, 0, 0, 6, 12, 12], [first, 3, 3, first + 2, 5, 5]
        shown = with_objects(image, [fat, other], [1, 1])
        axes = overlay_figure(image, shown, shown, filled=False).axes[0]
        assert axes.get_ylabel() == "axis 0 slice 5"
        assert len(axes.patches) == 1 + (first in (4, 5))


@pytest.mark.parametrize("kind", ["boxes", "instances", "density"])
def test_planes_are_cut_where_most_of_what_is_known_lies(kind: str) -> None:
    shape = (20, 24, 28)
    image = image_of(shape)
    instances = np.zeros(shape, dtype=np.int32)
    instances[2:5, 2:5, 2:5], instances[10:17, 12:17, 14:17] = 1, 2
    shown = {
        "boxes": with_objects(image, [[2, 2, 2, 5, 5, 5], [10, 12, 14, 17, 17, 17]], [1, 1]),
        "instances": with_instances(image, instances, {1: 1, 2: 1}),
        "density": Prediction("case", "group", image.geometry, ORGAN, maps={"density": (instances == 2)[None] * 0.1}),
    }[kind]
    figure = overlay_figure(image, shown, shown, filled=True)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["axis 0 slice 13", "axis 1 slice 14", "axis 2 slice 15"]
    # A reference without anything leaves the choice to the prediction.
    empty = with_objects(image, [], [])
    labels = [axes.get_ylabel() for axes in overlay_figure(image, shown, empty, filled=True).axes[::2]]
    assert labels == ["axis 0 slice 13", "axis 1 slice 14", "axis 2 slice 15"]


def test_instances_that_touch_have_a_contour_each_in_the_colour_of_their_class() -> None:
    image = image_of((40, 60))
    shown = with_instances(image, halves(), {1: 2, 2: 2}, TWO)
    panel = panels(overlay_figure(image, shown, shown, filled=False))[1]
    on_the_line = (np.abs(panel.x - 30) * panel.unit_px < LINE_PX - 1) & (panel.y > 8) & (panel.y < 32)
    assert panel.near(PALETTE[1])[on_the_line].mean() > 0.9
    assert not panel.near(PALETTE[0]).any()
    one = np.minimum(halves(), 1)
    whole = panels(overlay_figure(image, with_instances(image, one, {1: 2}, TWO), None, filled=False))[1]
    assert not whole.coloured[on_the_line].any()


def test_instances_of_a_single_class_have_colours_of_their_own() -> None:
    image = image_of((40, 60))
    shown = with_instances(image, halves(), {1: 1, 2: 1})
    outlined, filled = (panels(overlay_figure(image, shown, shown, filled=filled))[1] for filled in (False, True))
    for number, left in ((0, 5), (1, 30)):
        inward_px = -distance_to_border(outlined, (left, left + 25.0), (5.0, 35.0)) * outlined.unit_px
        on_the_line = (inward_px > 1.0) & (inward_px < LINE_PX - 1.0)
        assert outlined.near(PALETTE[number])[on_the_line].mean() > 0.97
        blend = (1 - OPACITY) * 0.5 + OPACITY * np.array(to_rgb(PALETTE[number]))
        assert np.abs(filled.rgb[inward_px > 5] - blend).max() < 0.03


def test_areas_of_instances_are_their_voxels() -> None:
    random = np.random.default_rng(0)
    instances = np.zeros((60, 80), dtype=np.int32)
    for number in range(1, 9):
        row, column = random.integers(0, [50, 70])
        instances[row : row + 12, column : column + 12] = number
    shown = with_instances(image_of((60, 80)), instances, {k: 1 + k % 2 for k in range(1, 9)}, TWO)
    panel = panels(overlay_figure(image_of((60, 80)), shown, shown, filled=True))[1]
    # Away from the borders of pixels, where two neighbours mix, and from the outlines.
    row, column = panel.y.astype(int), panel.x.astype(int)
    same = [
        instances[np.clip(row + i, 0, 59), np.clip(column + j, 0, 79)] == instances[row, column]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
    ]
    inner = np.all(same, axis=0) & (row > 0) & (row < 59) & (column > 0) & (column < 79)
    grey = np.full(3, 0.5)
    for parity, colour in ((0, PALETTE[0]), (1, PALETTE[1])):
        blend = (1 - OPACITY) * grey + OPACITY * np.array(to_rgb(colour))
        own = inner & (instances[row, column] > 0) & (instances[row, column] % 2 == parity)
        assert own.any()
        assert np.abs(panel.rgb[own] - blend).max() < 0.02
    assert np.abs(panel.rgb[inner & (instances[row, column] == 0)] - grey).max() < 0.02


@pytest.mark.parametrize("kind", ["instances", "boxes"])
def test_the_legend_names_the_classes(kind: str) -> None:
    image = image_of((40, 60))
    for classes in (ORGAN, TWO):
        labels = {1: 1, 2: len(classes)}
        boxes = [[5, 5, 35, 30], [5, 30, 35, 55]]
        shown = (
            with_instances(image, halves(), labels, classes)
            if kind == "instances"
            else with_objects(image, boxes, list(labels.values()), None, classes)
        )
        for filled in (False, True):
            legend = overlay_figure(image, shown, shown, filled=filled).legends[0]
            assert [text.get_text() for text in legend.get_texts()] == [structure.name for structure in classes]


def test_boxes_have_the_colour_of_their_class() -> None:
    image = image_of((40, 60))
    shown = with_objects(image, [[5, 5, 35, 25], [5, 35, 35, 55]], [1, 2], None, TWO)
    panel = panels(overlay_figure(image, shown, shown, filled=False))[0]
    for colour, left in ((PALETTE[0], 5.0), (PALETTE[1], 35.0)):
        from_line_px = np.abs(distance_to_border(panel, (left, left + 20), (5.0, 35.0))) * panel.unit_px
        assert panel.near(colour)[from_line_px < LINE_PX / 2 - 1].mean() > 0.97


def test_predicted_boxes_and_places_have_their_score_beside_them_and_reference_ones_none() -> None:
    image = image_of((40, 60))
    boxes = [[15, 5, 25, 15], [15, 35, 25, 45], [30, 50, 30, 50]]
    prediction = with_objects(image, boxes, [1, 1, 1], [0.874, 1.0, 0.051])
    figure = overlay_figure(image, prediction, with_objects(image, boxes, [1, 1, 1]), filled=False)
    reference, predicted_axes = figure.axes
    assert [text.get_text() for text in reference.texts] == []
    beside = {text.get_text(): text.xy for text in predicted_axes.texts}
    assert beside == {".87": (5.0, 15.0), "1.00": (35.0, 15.0), ".05": (50.0, 30.0)}


def test_scores_stay_within_their_panel() -> None:
    image = image_of((40, 60))
    boxes = [[0, 0, 8, 8], [0, 58, 8, 60], [38, 57, 40, 60], [-3, -2, 20, 5]]
    prediction = with_objects(image, boxes, [1, 1, 1, 1], [0.5, 0.6, 0.7, 0.8])
    figure = overlay_figure(image, prediction, None, filled=False)
    panels(figure)  # draws, which places the texts
    panel = figure.axes[1].get_window_extent()
    assert len(figure.axes[1].texts) == 4
    for text in figure.axes[1].texts:
        box = text.get_window_extent()
        assert panel.x0 - 3 <= box.x0 <= box.x1 <= panel.x1 + 3
        assert panel.y0 - 3 <= box.y0 <= box.y1 <= panel.y1 + 3


def test_boxes_of_low_scores_are_faint() -> None:
    image = image_of((40, 60))
    strengths = []
    for score in (0.1, 0.6, 1.0):
        shown = with_objects(image, [[10, 10, 30, 50]], [1], [score])
        panel = panels(overlay_figure(image, shown, None, filled=False))[1]
        line = np.abs(distance_to_border(panel, (10, 50), (10, 30))) * panel.unit_px < LINE_PX / 2 - 1
        strengths.append(np.ptp(panel.rgb[line], axis=-1).mean())
    assert 0 < strengths[0] < 0.7 * strengths[1] < 0.7 * strengths[2]


def test_instances_are_not_drawn_a_second_time_as_boxes() -> None:
    image = image_of((40, 60))
    shown = with_instances(image, halves(), {1: 1, 2: 1})
    assert not any(axes.patches or axes.texts for axes in overlay_figure(image, shown, shown, filled=False).axes)


def test_a_mask_and_boxes_are_drawn_together() -> None:
    image = image_of((40, 60))
    prediction = with_objects(image, [[5, 35, 20, 55]], [2], [0.9], TWO)
    both = prediction.with_mask(rectangle((40, 60), slice(5, 35), slice(5, 25)))
    panel = panels(overlay_figure(image, both, None, filled=False))[1]
    assert panel.near(PALETTE[0]).any()
    assert panel.near(PALETTE[1], 0.2).any()


def test_objects_of_no_class_are_left_out() -> None:
    image = image_of((40, 60))
    boxes = with_objects(image, [[5, 5, 20, 20], [5, 30, 20, 50]], [1, 9])
    assert len(overlay_figure(image, boxes, None, filled=False).axes[1].patches) == 1
    instances = with_instances(image, halves(), {1: 1, 2: 9})
    panel = panels(overlay_figure(image, instances, None, filled=True))[1]
    assert panel.x[panel.coloured].max() < 30.5


def test_parts_that_do_not_fit_are_refused() -> None:
    image = image_of((40, 60))
    whole = with_objects(image_of((40, 60, 5)), [[1, 1, 1, 3, 3, 3]], [1])
    with pytest.raises(DataError, match="the prediction of case case needs objects of 2 dimensions, got 3"):
        overlay_figure(image, whole, None, filled=False)
    other = with_instances(image, halves((40, 61)), {1: 1, 2: 1})
    with pytest.raises(DataError, match=r"needs the image's shape \(40, 60\), got \(40, 61\)"):
        overlay_figure(image, other, None, filled=False)
    bare = Prediction("case", "group", image.geometry, ORGAN, instances=halves())
    with pytest.raises(DataError, match="the reference of case case needs an object for each instance, got 0 objects"):
        overlay_figure(image, with_objects(image, [], []), bare, filled=False)
