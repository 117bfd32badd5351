from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from pictures import LINE_PX, OPACITY, ORGAN, distance_to_border, image_of, panels, predicted, rectangle
from PIL import Image as Picture

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Case, Image, Prediction, StructureClass
from medexp.engine import overlays
from medexp.engine.overlays import PALETTE, draw_overlay, overlay_figure, safe_name


def test_contours_lie_along_the_border_and_nowhere_else() -> None:
    image = image_of((60, 80))
    reference = predicted(image, rectangle((60, 80), slice(10, 30), slice(20, 50)))
    prediction = predicted(image, rectangle((60, 80), slice(20, 45), slice(40, 70)))
    left, right = panels(overlay_figure(image, prediction, reference, filled=False))
    for panel, x, y in ((left, (20.0, 50.0), (10.0, 30.0)), (right, (40.0, 70.0), (20.0, 45.0))):
        inward_px = -distance_to_border(panel, x, y) * panel.unit_px
        # The outline cuts corners by half a pixel of the image.
        assert inward_px[panel.coloured].min() > -1.5
        assert inward_px[panel.coloured].max() < LINE_PX + panel.unit_px
        on_the_line = (inward_px > 1.0) & (inward_px < LINE_PX - 1.0)
        assert panel.near(PALETTE[0])[on_the_line].mean() > 0.97


def test_areas_cover_the_class_and_nothing_else() -> None:
    image = image_of((60, 80))
    reference = predicted(image, rectangle((60, 80), slice(10, 30), slice(20, 50)))
    prediction = predicted(image, rectangle((60, 80), slice(20, 45), slice(40, 70)))
    left, right = panels(overlay_figure(image, prediction, reference, filled=True))
    blend = (1 - OPACITY) * 0.5 + OPACITY * np.array(to_rgb(PALETTE[0]))
    for panel, x, y in ((left, (20.0, 50.0), (10.0, 30.0)), (right, (40.0, 70.0), (20.0, 45.0))):
        inward_px = -distance_to_border(panel, x, y) * panel.unit_px
        assert np.abs(panel.rgb[inward_px > 4] - blend).max() < 0.02
        assert not panel.coloured[inward_px < -1.5].any()


def test_a_volume_is_cut_in_three_planes_where_the_reference_has_most() -> None:
    shape = (30, 24, 20)
    image = image_of(shape)
    mask = rectangle(shape, slice(4, 7), slice(5, 8), slice(6, 9))
    mask[0, 5, 5:15, 6:16] = 1
    mask[0, 4:12, 6, 6:16] = 1
    mask[0, 4:12, 5:15, 7] = 1
    prediction = predicted(image, rectangle(shape, slice(20, 28), slice(18, 22), slice(12, 18)))
    figure = overlay_figure(image, prediction, predicted(image, mask), filled=True)
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "axis 0 slice 5",
        "",
        "axis 1 slice 6",
        "",
        "axis 2 slice 7",
        "",
    ]
    found = panels(figure)
    assert all(panel.coloured.any() for panel in found[::2])
    assert not any(panel.coloured.any() for panel in found[1::2])  # the prediction lies elsewhere


def test_an_empty_reference_leaves_the_choice_of_slices_to_the_prediction() -> None:
    shape = (30, 24, 20)
    image = image_of(shape)
    reference = predicted(image, np.zeros((1, *shape), dtype=np.uint8))
    prediction = predicted(image, rectangle(shape, slice(20, 25), slice(3, 6), slice(9, 10)))
    figure = overlay_figure(image, prediction, reference, filled=False)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["axis 0 slice 22", "axis 1 slice 4", "axis 2 slice 9"]


def test_without_any_foreground_the_middle_is_shown() -> None:
    image = image_of((31, 21, 11))
    empty = predicted(image, np.zeros((1, 31, 21, 11), dtype=np.uint8))
    figure = overlay_figure(image, empty, empty, filled=True)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["axis 0 slice 15", "axis 1 slice 10", "axis 2 slice 5"]
    assert not any(panel.coloured.any() for panel in panels(figure))


def test_what_nobody_annotated_is_no_foreground() -> None:
    image = image_of((30, 30, 30))
    mask = rectangle((30, 30, 30), slice(2, 28), slice(2, 5), slice(2, 28), value=255)
    mask[0, 20, 20, 20] = 1
    figure = overlay_figure(image, predicted(image, mask), predicted(image, mask), filled=True)
    assert [axes.get_ylabel() for axes in figure.axes[::2]] == ["axis 0 slice 20", "axis 1 slice 20", "axis 2 slice 20"]


def test_lengths_are_true_to_the_spacing_and_share_one_scale() -> None:
    shape, spacing = (20, 60, 10), (1.0, 0.5, 4.0)
    image = image_of(shape, spacing=spacing, unit="mm")
    empty = predicted(image, np.zeros((1, *shape), dtype=np.uint8))
    found = panels(overlay_figure(image, empty, None, filled=False))
    lengths_mm = [n * spacing_mm for n, spacing_mm in zip(shape, spacing, strict=True)]
    scales = []
    for panel, (across, up) in zip(found[::2], ((1, 2), (0, 2), (0, 1)), strict=True):
        rows, columns = np.nonzero(panel.shown)
        scales += [np.ptp(columns) / lengths_mm[across], np.ptp(rows) / lengths_mm[up]]
    assert np.ptp(scales) / np.mean(scales) < 0.02


@pytest.mark.parametrize("up", [1.0, -1.0])
def test_millimetres_run_along_the_world_and_upwards(up: float) -> None:
    shape = (20, 20, 20)
    affine = np.diag([1.0, 1.0, up, 1.0])
    geometry = Geometry(shape=shape, affine=affine)
    image = Image(Case("case", "group", ()), np.zeros((1, *shape), np.float32), None, geometry)
    # High in the world, and far along its first axis.
    high = slice(15, 19) if up > 0 else slice(1, 5)
    prediction = predicted(image, rectangle(shape, slice(12, 18), slice(8, 12), high))
    panel = panels(overlay_figure(image, prediction, None, filled=True))[3]  # axis 1 is cut
    assert panel.y[panel.coloured].max() < 6.0  # units run down from the upper edge
    assert panel.x[panel.coloured].min() > 10.0


def test_axes_that_the_header_permutes_are_shown_as_the_world_has_them() -> None:
    # Voxel axis 0 runs along the world's z, 1 along x, 2 along y.
    affine = np.array([[0, 2.0, 0, 0], [0, 0, 1.0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1.0]])
    shape = (10, 20, 40)
    image = Image(Case("case", "group", ()), np.zeros((1, *shape), np.float32), None, Geometry(shape, affine))
    empty = predicted(image, np.zeros((1, *shape), dtype=np.uint8))
    figure = overlay_figure(image, empty, None, filled=False)
    widths_heights = [(axes.get_xlim()[1], axes.get_ylim()[0]) for axes in figure.axes[::2]]
    assert widths_heights == [(40.0, 40.0), (40.0, 30.0), (40.0, 30.0)]  # x by y, y by z, x by z in mm


def test_a_picture_is_shown_as_its_array_is_written() -> None:
    image = image_of((40, 60))
    prediction = predicted(image, rectangle((40, 60), slice(2, 8), slice(30, 55)))
    panel = panels(overlay_figure(image, prediction, None, filled=True))[1]
    assert panel.y[panel.coloured].max() < 8.5
    assert panel.x[panel.coloured].min() > 29.5


def test_overlapping_regions_keep_their_own_colours() -> None:
    image = image_of((60, 60))
    regions = tuple(StructureClass(name, layer, 1) for layer, name in enumerate(("whole", "core")))
    mask = np.concatenate(
        [
            rectangle((60, 60), slice(10, 50), slice(10, 50)),
            rectangle((60, 60), slice(20, 40), slice(20, 40)),
        ]
    )
    prediction = predicted(image, mask, regions)
    panel = panels(overlay_figure(image, prediction, prediction, filled=True))[1]
    for colour, inside in ((PALETTE[0], (12.0, 18.0)), (PALETTE[1], (22.0, 38.0))):
        blend = (1 - OPACITY) * 0.5 + OPACITY * np.array(to_rgb(colour))
        area = (panel.x > inside[0]) & (panel.x < inside[1]) & (panel.y > 22) & (panel.y < 38)
        assert np.abs(panel.rgb[area] - blend).max() < 0.02
    outlined = panels(overlay_figure(image, prediction, prediction, filled=False))[1]
    assert outlined.near(PALETTE[0]).any()
    assert outlined.near(PALETTE[1]).any()


def test_classes_that_touch_show_both_borders() -> None:
    image = image_of((40, 60))
    classes = (StructureClass("left", 0, 1), StructureClass("right", 0, 2))
    mask = rectangle((40, 60), slice(5, 35), slice(5, 30)) + rectangle((40, 60), slice(5, 35), slice(30, 55), value=2)
    panel = panels(overlay_figure(image, predicted(image, mask, classes), None, filled=False))[1]
    seam = (np.abs(panel.x - 30) * panel.unit_px < 2) & (panel.y > 10) & (panel.y < 30)
    assert panel.near(PALETTE[0])[seam & (panel.x < 30)].mean() > 0.5
    assert panel.near(PALETTE[1])[seam & (panel.x > 30)].mean() > 0.5


def test_beyond_the_palette_a_class_is_dashed() -> None:
    classes = tuple(StructureClass(f"class {i}", 0, i + 1) for i in range(len(PALETTE) + 1))
    image = image_of((40, 60))
    first = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55), value=1), classes)
    eighth = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55), value=8), classes)
    left, right = panels(overlay_figure(image, eighth, first, filled=False))
    assert right.near(PALETTE[0]).any()
    assert right.coloured.sum() < 0.9 * left.coloured.sum()


def test_a_class_has_the_same_colour_in_both_panels_whatever_their_order() -> None:
    image = image_of((40, 60))
    one, two = StructureClass("one", 0, 1), StructureClass("two", 0, 2)
    mask = rectangle((40, 60), slice(5, 35), slice(5, 55), value=2)
    prediction, reference = predicted(image, mask, (one, two)), predicted(image, mask, (two, one))
    left, right = panels(overlay_figure(image, prediction, reference, filled=False))
    assert left.near(PALETTE[1]).sum() == pytest.approx(right.near(PALETTE[1]).sum(), rel=0.1)
    assert not left.near(PALETTE[0]).any()


def test_an_empty_prediction_is_a_bare_image_beside_the_reference() -> None:
    image = image_of((40, 60))
    reference = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)))
    prediction = predicted(image, np.zeros((1, 40, 60), dtype=np.uint8))
    for filled in (False, True):
        left, right = panels(overlay_figure(image, prediction, reference, filled=filled))
        assert left.coloured.any()
        assert not right.coloured.any()
        assert right.shown.any()


def test_titles_say_which_panel_is_which() -> None:
    image = image_of((40, 60))
    mask = predicted(image, np.zeros((1, 40, 60), dtype=np.uint8))
    with_reference = overlay_figure(image, mask, mask, filled=False)
    assert [axes.get_title() for axes in with_reference.axes] == ["reference", "prediction"]
    without = overlay_figure(image, mask, None, filled=False)
    assert [axes.get_title() for axes in without.axes] == ["image", "prediction"]


def test_the_legend_names_the_classes_as_they_are_spelt() -> None:
    classes = tuple(StructureClass(name, 0, i + 1) for i, name in enumerate(("_hidden", "a $b$ c", "x" * 80)))
    image = image_of((40, 60))
    figure = overlay_figure(image, predicted(image, np.zeros((1, 40, 60), np.uint8), classes), None, filled=True)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["_hidden", "a $b$ c", "x" * 39 + "…"]
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def test_outliers_do_not_darken_the_image() -> None:
    image = image_of((100, 100))
    image.pixels[0] = np.linspace(0.0, 1.0, 100)
    image.pixels[0, 0, 0] = 1e6
    panel = panels(overlay_figure(image, predicted(image, np.zeros((1, 100, 100), np.uint8)), None, filled=False))[0]
    middle = panel.rgb[np.abs(panel.x - 50) < 5]
    assert middle.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [0.0, -7.5, np.nan, np.inf])
def test_images_without_contrast_are_drawn(value: float) -> None:
    image = image_of((40, 60), fill=value)
    mask = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)))
    assert panels(overlay_figure(image, mask, None, filled=False))[1].coloured.any()


def test_the_channel_is_the_one_that_was_asked_for() -> None:
    dark_and_bright = np.stack([np.zeros((40, 60)), np.tile(np.linspace(0, 1, 60), (40, 1))]).astype(np.float32)
    image = Image(Case("case", "group", ()), dark_and_bright, None, image_of((40, 60)).geometry)
    mask = predicted(image, np.zeros((1, 40, 60), np.uint8))
    flat, ramp = (panels(overlay_figure(image, mask, None, filled=False, channel=i))[0] for i in (0, 1))
    assert np.ptp(flat.rgb) < 0.01
    assert np.ptp(ramp.rgb) > 0.9


def test_a_huge_picture_keeps_its_places() -> None:
    image = image_of((5000, 3000))
    prediction = predicted(image, rectangle((5000, 3000), slice(1000, 2000), slice(600, 1200)))
    panel = panels(overlay_figure(image, prediction, None, filled=True))[1]
    rows, columns = panel.y[panel.coloured], panel.x[panel.coloured]
    assert [rows.min(), rows.max(), columns.min(), columns.max()] == pytest.approx([1000, 2000, 600, 1200], abs=10)


def test_a_volume_of_one_slice_is_drawn() -> None:
    image = image_of((40, 60, 1), spacing=(1.0, 1.0, 5.0), unit="mm")
    prediction = predicted(image, rectangle((40, 60, 1), slice(5, 35), slice(5, 55), slice(0, 1)))
    assert all(panel.coloured.any() for panel in panels(overlay_figure(image, prediction, None, filled=True))[1::2])


def test_two_files_are_written_and_again_the_same(tmp_path: Path) -> None:
    image = image_of((40, 60))
    prediction = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)), case_id="liver_012")
    first = draw_overlay(image, prediction, None, tmp_path / "a")
    second = draw_overlay(image, prediction, None, tmp_path / "b")
    assert [path.name for path in first] == ["liver_012_contour.png", "liver_012_fill.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes() != first[1].read_bytes()


def test_the_pictures_do_not_name_the_case(tmp_path: Path) -> None:
    image = image_of((40, 60))
    prediction = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)), case_id="jane_doe")
    figure = overlay_figure(image, prediction, prediction, filled=False)
    assert not any("jane" in text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))
    for path in draw_overlay(image, prediction, prediction, tmp_path):
        assert b"jane" not in path.read_bytes()
        with Picture.open(path) as picture:
            assert set(picture.info) <= {"dpi"}


def test_a_class_in_a_script_that_the_font_lacks_raises_no_warning(tmp_path: Path) -> None:
    image = image_of((40, 60))
    classes = (StructureClass("肝臓", 0, 1),)
    prediction = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)), classes)
    assert len(draw_overlay(image, prediction, None, tmp_path)) == 2


@pytest.mark.parametrize(
    ("case_id", "name"),
    [
        ("liver_012", "liver_012"),
        ("site a/liver", "site%20a%2Fliver"),
        ("../../etc", "%2E.%2F..%2Fetc"),
        (".hidden", "%2Ehidden"),
        ("a:b*c?", "a%3Ab%2Ac%3F"),
        ("é", "%C3%A9"),
    ],
)
def test_unsafe_characters_are_percent_encoded(case_id: str, name: str) -> None:
    assert safe_name(case_id) == name


def test_long_case_ids_give_short_names_that_differ() -> None:
    names = {safe_name("x" * 400 + end) for end in ("1", "2")}
    assert len(names) == 2
    assert all(len(name) < 220 for name in names)


def test_a_case_id_with_a_path_stays_in_the_folder(tmp_path: Path) -> None:
    image = image_of((10, 10))
    prediction = predicted(image, np.zeros((1, 10, 10), np.uint8), case_id="../outside")
    assert all(path.parent == tmp_path and path.is_file() for path in draw_overlay(image, prediction, None, tmp_path))


def test_a_channel_that_is_not_there_is_refused() -> None:
    image = image_of((10, 10))
    with pytest.raises(UsageError, match="channel needs a value from 0 to 0 for case case, got 1"):
        overlay_figure(image, predicted(image, np.zeros((1, 10, 10), np.uint8)), None, filled=False, channel=1)


def test_a_mask_on_another_grid_is_refused() -> None:
    image = image_of((10, 10))
    fits, other = (predicted(image, np.zeros((1, 10, n), np.uint8)) for n in (10, 12))
    with pytest.raises(
        DataError, match=r"the reference of case case needs the image's shape \(10, 10\), got \(10, 12\)"
    ):
        overlay_figure(image, fits, other, filled=False)


def test_a_prediction_with_nothing_to_draw_is_refused() -> None:
    image = image_of((10, 10))
    soft = Prediction("case", "group", image.geometry, ORGAN, probabilities=np.zeros((2, 10, 10), np.float32))
    with pytest.raises(DataError, match=r"case case has no mask, .* to draw; end the post-processing chain"):
        overlay_figure(image, soft, None, filled=False)


def test_nothing_is_left_in_matplotlibs_global_state() -> None:
    code = "import sys, medexp.engine.overlays; sys.exit('matplotlib.pyplot' in sys.modules)"
    checkout = Path(overlays.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=checkout).returncode == 0
