"""What holds for whole images, densities, empty predictions and slices as arrays; masks are in test_overlays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from pictures import (
    ORGAN,
    TWO,
    affine_of,
    halves,
    image_of,
    panels,
    predicted,
    rectangle,
    with_instances,
    with_objects,
)

from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Case, Image, Prediction, StructureClass
from medexp.engine.overlays import PALETTE, draw_overlay, overlay_figure, shown_slices


def words(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


SCORES = np.array([0.1, 0.607, 0.2, 0.093])
FOUR = tuple(StructureClass(name, 0, value) for value, name in enumerate(("a", "b", "c $x$", "d")))


def classified(image: Image, scores: np.ndarray) -> Prediction:
    return Prediction("case", "group", image.geometry, FOUR, scores=scores)


def test_scores_of_the_image_stand_over_the_panels() -> None:
    image = image_of((40, 60))
    figure = overlay_figure(image, classified(image, SCORES), classified(image, np.array([0.0, 0, 1, 0])), filled=False)
    titles = [axes.get_title().splitlines() for axes in figure.axes]
    assert [[line for line in title if line] for title in titles] == [
        ["reference", "c $x$"],
        ["prediction", ".61 b", ".20 c $x$", ".10 a"],
    ]
    assert not any(axes.title.get_parse_math() for axes in figure.axes)
    assert not figure.legends
    assert not any(panel.coloured.any() for panel in panels(figure))


@pytest.mark.parametrize(
    ("known", "lines"),
    [([0, 0, 0, 0], ["none"]), ([0, 1, 0, 1], ["b", "d"]), ([1, 1, 1, 1], ["a", "b", "c $x$"])],
)
def test_a_reference_names_its_classes(known: list[int], lines: list[str]) -> None:
    image = image_of((40, 60))
    figure = overlay_figure(image, classified(image, SCORES), classified(image, np.array(known, float)), filled=False)
    assert figure.axes[0].get_title().split("\n")[1:4] == [*lines, "", ""][:3]


def test_captions_lie_within_the_figure_and_above_the_image() -> None:
    image = image_of((20, 21, 22))
    classes = tuple(StructureClass(f"class {'w' * 60} {i}", 0, i) for i in range(4))
    shown = Prediction("case", "group", image.geometry, classes, scores=SCORES)
    figure = overlay_figure(image, shown, shown, filled=False)
    panels(figure)
    assert [bool(axes.get_title()) for axes in figure.axes] == [True, True, False, False, False, False]
    left, right = (axes.title.get_window_extent() for axes in figure.axes[:2])
    assert left.y0 >= figure.axes[0].get_window_extent().y1
    assert left.y1 == pytest.approx(right.y1, abs=3)
    assert right.y1 <= figure.bbox.y1


def test_a_density_is_heat_where_areas_are_drawn_and_counted_over_the_panel() -> None:
    image = image_of((40, 60))
    density = np.zeros((2, 40, 60))
    density[0, 5:15, 5:15], density[0, 25:35, 5:15], density[1, 5:15, 40:50] = 0.02, 0.01, 0.02
    shown = Prediction("case", "group", image.geometry, TWO, maps={"density": density})
    figure = overlay_figure(image, shown, None, filled=True)
    assert figure.axes[1].get_title().split("\n") == ["prediction", "3.0 left", "2.0 right"]
    panel = panels(figure)[1]
    warm, half, other = (
        panel.rgb[(panel.x > x + 1) & (panel.x < x + 9) & (panel.y > y + 1) & (panel.y < y + 9)]
        for x, y in ((5, 5), (5, 25), (40, 5))
    )
    grey, colours = np.full(3, 0.5), np.array([to_rgb(colour) for colour in PALETTE])
    np.testing.assert_allclose(warm - grey, np.broadcast_to(2 * (half.mean(axis=0) - grey), warm.shape), atol=0.03)
    np.testing.assert_allclose(warm, np.broadcast_to(0.3 * grey + 0.7 * colours[0], warm.shape), atol=0.02)
    np.testing.assert_allclose(other, np.broadcast_to(0.3 * grey + 0.7 * colours[1], other.shape), atol=0.02)
    assert not panels(overlay_figure(image, shown, None, filled=False))[1].coloured.any()


def empty_ones(image: Image) -> list[Prediction]:
    """A prediction of each kind that found nothing."""
    shape, geometry = image.geometry.shape, image.geometry
    none = Objects.none(len(shape))
    return [
        predicted(image, np.zeros((1, *shape), np.uint8), TWO),
        Prediction("case", "group", geometry, FOUR, instances=np.zeros(shape, np.int32), objects=none),
        Prediction("case", "group", geometry, FOUR, objects=none),
        Prediction("case", "group", geometry, FOUR, maps={"density": np.zeros((4, *shape))}),
        Prediction("case", "group", geometry, FOUR, scores=np.zeros(4)),
    ]


@pytest.mark.parametrize("filled", [False, True])
def test_where_nothing_was_found_the_image_is_bare(filled: bool) -> None:
    image = image_of((20, 30))
    for empty in empty_ones(image):
        for reference in (None, empty):
            found = panels(overlay_figure(image, empty, reference, filled=filled))
            assert not any(panel.coloured.any() for panel in found)
            assert all(panel.shown.any() for panel in found)


def test_a_volume_in_which_nothing_was_found_is_cut_in_its_middle() -> None:
    image = image_of((12, 14, 16))
    for empty in empty_ones(image):
        labels = [axes.get_ylabel() for axes in overlay_figure(image, empty, empty, filled=True).axes[::2]]
        assert labels == ["axis 0 slice 6", "axis 1 slice 7", "axis 2 slice 8"]


def test_the_case_is_not_named_whatever_is_drawn(tmp_path: Path) -> None:
    image = image_of((40, 60))
    objects = Objects.of_instances(halves(), {1: 1, 2: 1})
    shown = Prediction("jane_doe", "smith", image.geometry, ORGAN, objects=objects, scores=np.array([0.7]))
    for filled in (False, True):
        assert not any(
            "jane" in word or "smith" in word for word in words(overlay_figure(image, shown, shown, filled=filled))
        )
    assert all(b"jane" not in path.read_bytes() for path in draw_overlay(image, shown, shown, tmp_path))


def test_shown_slices_are_the_planes_of_the_picture_as_arrays() -> None:
    geometry = Geometry((30, 24, 20), affine_of((2, 0, 1), (1, -1, 1), (3.0, 1.0, 2.0)))
    pixels = np.random.default_rng(0).uniform(size=(1, 30, 24, 20)).astype(np.float32)
    image = Image(Case("case", "group", ()), pixels, None, geometry)
    mask = rectangle(geometry.shape, slice(5, 20), slice(3, 12), slice(4, 15))
    mask[0, 10:14, 6:9, 8:11] = 2
    reference, prediction = predicted(image, mask, TWO), with_objects(image, [[5, 3, 4, 9, 9, 9]], [1], None, TWO)
    slices = shown_slices(image, prediction, reference)
    figure = overlay_figure(image, prediction, reference, filled=True)
    assert len(slices) == 3
    for shown, axes in zip(slices, figure.axes[::2], strict=True):
        grey = axes.images[0]
        np.testing.assert_allclose(shown.picture, np.clip(grey.norm(grey.get_array()), 0, 1), atol=1e-6)
        assert shown.prediction is None
        assert shown.classes == ("left", "right")
        coloured = axes.images[1].get_array()
        for number, colour in ((1, PALETTE[0]), (2, PALETTE[1])):
            assert np.array_equal(shown.reference == number, np.abs(coloured[..., :3] - to_rgb(colour)).max(-1) < 1e-9)


def test_shown_slices_of_instances_and_regions_name_the_class_of_each_pixel() -> None:
    image = image_of((40, 60))
    regions = tuple(StructureClass(name, layer, 1) for layer, name in enumerate(("whole", "core")))
    mask = np.concatenate(
        [rectangle((40, 60), slice(5, 35), slice(5, 55)), rectangle((40, 60), slice(10, 20), slice(10, 20))]
    )
    (overlapping,) = shown_slices(image, predicted(image, mask, regions), None)
    assert np.array_equal(overlapping.prediction, mask[0] + mask[1])
    assert overlapping.reference is None
    instances = with_instances(image, halves(), {1: 2, 2: 1}, TWO)
    (of_objects,) = shown_slices(image, instances, instances)
    assert np.array_equal(of_objects.prediction, np.array([0, 2, 1])[halves()])
    assert np.array_equal(of_objects.reference, of_objects.prediction)
