"""What makes a picture a figure: line styles, errors, scale bar, sides of the patient, montage, SVG, safe colours."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from omegaconf import OmegaConf
from pictures import ORGAN, TWO, affine_of, halves, image_of, panels, predicted, rectangle, with_instances
from skimage.color import deltaE_ciede2000, rgb2lab

from medexp.cli.places import conf_folder
from medexp.core.config import plain
from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Case, Image, Prediction, StructureClass
from medexp.engine._instance_colours import INSTANCE_COLOURS
from medexp.engine._overlay_errors import ERROR_COLOURS, ErrorKind, error_kinds
from medexp.engine._overlay_parts import looks_of
from medexp.engine.overlays import PALETTE, Cuts, Drawing, draw_overlay, overlay_figure, shown_slices

# G. M. Machado, M. M. Oliveira, L. A. F. Fernandes, A physiologically-based model for simulation of color vision
# deficiency, IEEE TVCG 15 (2009), severity 1.0; on linear RGB.
_SEEN_BY = {
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
# A difference of 2.3 can just be noticed side by side.
_CLEAR = 10.0


def _distances(colours: list[str], matrix: object) -> list[float]:
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(matrix).T, 0, 1)
    lab = rgb2lab(np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)[None])[0]
    return [float(deltaE_ciede2000(one, other)) for one, other in combinations(lab, 2)]


@pytest.mark.parametrize("whom", list(_SEEN_BY))
def test_colours_of_classes_and_of_errors_are_told_apart_by(whom: str) -> None:
    errors = [
        [colour for kind, colour in ERROR_COLOURS.items() if (kind >= ErrorKind.MATCHED) is of] for of in (False, True)
    ]
    for colours in (list(INSTANCE_COLOURS[:12]), *errors):
        assert min(_distances(colours, _SEEN_BY[whom])) > _CLEAR


def test_red_and_green_would_not_be_told_apart() -> None:
    assert min(_distances(["#c05000", "#6f7a00"], _SEEN_BY["all"])) > 20
    assert min(_distances(["#c05000", "#6f7a00"], _SEEN_BY["deuteranopia"])) < _CLEAR


def _many(count: int) -> tuple[StructureClass, ...]:
    return tuple(StructureClass(f"class {i}", 0, i + 1) for i in range(count))


def test_classes_of_a_mask_differ_in_colour_and_dashes() -> None:
    image = image_of((10, 10))
    looks = looks_of([predicted(image, np.zeros((1, 10, 10), np.uint8), _many(28))])
    assert len({(look.colours, look.dashes) for look in looks.values()}) == 28
    first = list(looks.values())[:4]
    assert len({look.dashes for look in first}) == len({look.colours for look in first}) == 4


def test_the_legend_shows_the_dashes() -> None:
    image = image_of((40, 60))
    shown = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)), TWO)
    (legend,) = overlay_figure(image, shown, None, filled=False).legends
    assert [line.get_linestyle() for line in legend.findobj(Line2D)] == ["-", "--"]


def _pair(image: Image) -> tuple[Prediction, Prediction]:
    """Prediction and reference of two classes that agree in part."""
    known, found = np.zeros((1, 40, 60), np.uint8), np.zeros((1, 40, 60), np.uint8)
    known[0, 10:30, 10:30], known[0, 10:30, 30:40] = 1, 2
    found[0, 10:30, 20:35], found[0, 10:30, 35:50] = 1, 2
    return predicted(image, found, TWO), predicted(image, known, TWO)


def _expected_errors() -> np.ndarray:
    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 10:20], expected[10:30, 30:35], expected[10:30, 40:50] = 2, 3, 1
    return expected


def test_errors_are_false_positives_false_negatives_and_other_classes() -> None:
    prediction, reference = _pair(image_of((40, 60)))
    assert np.array_equal(error_kinds(prediction, reference), _expected_errors())
    assert not error_kinds(reference, reference).any()


def test_errors_of_regions_are_counted_in_each_region() -> None:
    image = image_of((4, 6))
    regions = tuple(StructureClass(name, layer, 1) for layer, name in enumerate(("whole", "core")))
    known, found = np.zeros((2, 4, 6), np.uint8), np.zeros((2, 4, 6), np.uint8)
    known[0], found[0, :, :3], found[1, :, 4] = 1, 1, 1
    kinds = error_kinds(predicted(image, found, regions), predicted(image, known, regions))
    assert kinds[0].tolist() == [0, 0, 0, 2, 3, 2]


def test_unannotated_voxels_have_no_error() -> None:
    image = image_of((40, 60))
    prediction, reference = _pair(image)
    valid = np.ones((40, 60), bool)
    valid[:, :35] = False
    known = Prediction("case", "group", image.geometry, TWO, mask=reference.mask, valid=valid)
    assert np.array_equal(error_kinds(prediction, known), np.where(valid, _expected_errors(), 0))


def _discs(image: Image, *places: tuple[int, int], labels: dict[int, int]) -> Prediction:
    instances = np.zeros((40, 60), np.int32)
    rows, columns = np.indices((40, 60))
    for number, (row, column) in enumerate(places, start=1):
        instances[np.hypot(rows - row, columns - column) < 6] = number
    return with_instances(image, instances, labels, TWO)


def test_instances_are_matched_missed_or_false() -> None:
    image = image_of((40, 60))
    known = _discs(image, (10, 10), (10, 30), (30, 10), (30, 50), labels={1: 1, 2: 1, 3: 2, 4: 2})
    # One hardly moved, one far off, one of the other class, one not found, and one where there is none.
    found = _discs(image, (11, 10), (10, 37), (30, 10), (20, 50), labels={1: 1, 2: 1, 3: 1, 4: 2})
    kinds = error_kinds(found, known)
    said, was = found.instances, known.instances
    assert (kinds[(said == 1) | (was == 1)] == ErrorKind.MATCHED).all()
    assert (kinds[(said == 2) & (was == 0)] == ErrorKind.FALSE_OBJECT).all()
    assert (kinds[(said == 0) & (was == 2)] == ErrorKind.MISSED_OBJECT).all()
    assert (kinds[(said == 2) & (was == 2)] == ErrorKind.FALSE_AND_MISSED).all()
    assert (kinds[was == 3] == ErrorKind.FALSE_AND_MISSED).all()
    assert (kinds[(said == 0) & (was == 0)] == 0).all()
    joined = with_instances(image, (halves() > 0).astype(np.int32), {1: 1}, TWO)
    apart = with_instances(image, halves(), {1: 1, 2: 1}, TWO)
    assert not (error_kinds(joined, apart) == ErrorKind.MATCHED).any()  # each half is half of what was found
    assert set(np.unique(error_kinds(apart, apart))) == {0, ErrorKind.MATCHED}


def test_what_was_not_annotated_of_an_object_does_not_count_in_its_match() -> None:
    image = image_of((40, 60))
    known = _discs(image, (20, 20), labels={1: 1})
    half = known.instances.copy()
    half[:, 20:] = 0
    found = with_instances(image, half, {1: 1}, TWO)
    valid = np.ones((40, 60), bool)
    valid[:, 20:] = False
    assert not (error_kinds(found, known) == ErrorKind.MATCHED).any()
    kinds = error_kinds(found, replace(known, valid=valid))
    assert (kinds[:, :20][half[:, :20] > 0] == ErrorKind.MATCHED).all()
    assert not kinds[:, 20:].any()


def test_the_legend_of_instances_names_what_became_of_them() -> None:
    image = image_of((40, 60))
    known = _discs(image, (10, 10), (30, 50), labels={1: 1, 2: 1})
    figure = overlay_figure(image, _discs(image, (10, 10), labels={1: 1}), known, filled=False, errors=True)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["left", "right", "matched", "false object", "missed object", "false and missed"]
    panel = panels(figure)[2]
    for kind, (x, y) in {ErrorKind.MATCHED: (10.5, 10.5), ErrorKind.MISSED_OBJECT: (50.5, 30.5)}.items():
        inside = np.hypot(panel.x - x, panel.y - y) < 2
        assert np.abs(panel.rgb[inside] - (0.3 * 0.5 + 0.7 * np.array(to_rgb(ERROR_COLOURS[kind])))).max() < 0.02


def test_the_error_panel_has_a_colour_for_each_kind_and_the_legend_names_them() -> None:
    image = image_of((40, 60))
    figure = overlay_figure(image, *_pair(image), filled=False, errors=True)
    assert [axes.get_title() for axes in figure.axes] == ["reference", "prediction", "error"]
    panel = panels(figure)[2]
    for kind, (x, y) in {1: (45, 20), 2: (15, 20), 3: (32.5, 20)}.items():
        inside = (np.abs(panel.x - x) < 2) & (np.abs(panel.y - y) < 8)
        blend = 0.3 * 0.5 + 0.7 * np.array(to_rgb(ERROR_COLOURS[ErrorKind(kind)]))
        assert np.abs(panel.rgb[inside] - blend).max() < 0.02
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["left", "right", "false positive", "false negative", "other class"]
    (shown,) = shown_slices(image, *_pair(image))
    assert np.array_equal(shown.errors, _expected_errors())


def test_without_a_reference_or_without_areas_there_is_no_error_panel() -> None:
    image = image_of((40, 60))
    prediction, _ = _pair(image)
    assert len(overlay_figure(image, prediction, None, filled=False, errors=True).axes) == 2
    scored = Prediction("case", "group", image.geometry, TWO, scores=np.array([0.2, 0.8]))
    assert len(overlay_figure(image, scored, scored, filled=False, errors=True).axes) == 2


def test_a_reference_alone_stands_beside_the_image() -> None:
    image = image_of((40, 60))
    figure = overlay_figure(image, None, _pair(image)[1], filled=True)
    assert [axes.get_title() for axes in figure.axes] == ["image", "reference"]
    bare, drawn = panels(figure)
    assert drawn.coloured.any()
    assert not bare.coloured.any()


def _bar(figure: Figure) -> tuple[float, str]:
    """Length of the scale bar in units of the panels, and its words."""
    figure.draw_without_rendering()
    (line,) = (one for one in figure.findobj(Line2D) if one.get_gid() == "scale bar")
    length_px = float(np.ptp(line.get_xdata())) * figure.bbox.width
    axes = figure.axes[0]
    units_per_px = np.ptp(axes.transData.inverted().transform([[0, 0], [1, 0]])[:, 0])
    (words,) = (text.get_text() for text in figure.findobj(Text) if text.get_text().endswith((" mm", " px")))
    return length_px * float(units_per_px), words


@pytest.mark.parametrize(
    ("spacing", "unit", "words"), [(0.5, "mm", "5 mm"), (3.0, "mm", "20 mm"), (1.0, "px", "20 px")]
)
def test_the_scale_bar_is_as_long_as_it_says(spacing: float, unit: str, words: str) -> None:
    image = image_of((40, 60), spacing=(spacing, spacing), unit=unit)
    length, said = _bar(overlay_figure(image, predicted(image, rectangle((40, 60), slice(2, 9))), None, filled=False))
    assert said == words
    assert length == pytest.approx(float(words.split()[0]), rel=1e-3)


def _edges(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts if text.get_text() in "LRPAIS"]


@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_letters_are_those_of_nibabel(permutation: tuple[int, ...], signs: tuple[int, ...]) -> None:
    shape, affine = (10, 12, 14), affine_of(permutation, signs, (1.0, 2.0, 3.0))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    image = Image(Case("c", "g", ()), np.zeros((1, *shape), np.float32), None, Geometry(shape, turn @ affine))
    # One corner of the volume, at the end of all voxel axes: it lies towards the side that nibabel names.
    shown = predicted(image, rectangle(shape, slice(6, 10), slice(8, 12), slice(9, 14)))
    codes = set(nib.aff2axcodes(image.geometry.affine))
    figure = overlay_figure(image, shown, None, filled=True)
    for panel, pixels in zip(range(0, 6, 2), panels(figure)[1::2], strict=True):
        left, right, bottom, top = _edges(figure, panel)
        x, y = pixels.x[pixels.coloured].mean(), pixels.y[pixels.coloured].mean()
        axes = figure.axes[panel]
        towards_right, towards_top = x > axes.get_xlim()[1] / 2, y < axes.get_ylim()[0] / 2
        assert {right if towards_right else left, top if towards_top else bottom} <= codes


def test_without_an_orientation_no_side_is_claimed() -> None:
    for unit in ("mm", "px"):
        image = image_of((10, 12, 14), unit=unit)
        figure = overlay_figure(image, predicted(image, rectangle((10, 12, 14), slice(2, 9))), None, filled=False)
        assert not any(_edges(figure, panel) for panel in range(len(figure.axes)))


def _thick(axis_2_mm: float = 5.0) -> tuple[Image, Prediction]:
    image = image_of((20, 24, 30), spacing=(1.0, 1.0, axis_2_mm), unit="mm")
    return image, predicted(image, rectangle((20, 24, 30), slice(5, 15), slice(5, 20), slice(4, 13)))


def _labels(figure: Figure) -> list[str]:
    return [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]


def test_a_montage_spreads_its_slices_over_the_foreground_along_the_widest_voxels() -> None:
    image, shown = _thick()
    figure = overlay_figure(image, shown, None, filled=False, cuts=Cuts("montage", slices=5))
    assert _labels(figure) == [f"axis 2 slice {index}" for index in (4, 6, 8, 10, 12)]
    assert _labels(overlay_figure(image, shown, None, filled=False, cuts=Cuts("montage", slices=99))) == [
        f"axis 2 slice {index}" for index in range(4, 13)
    ]
    across = overlay_figure(image, shown, None, filled=False, cuts=Cuts("montage", slices=2, axis=1))
    assert _labels(across) == ["axis 1 slice 5", "axis 1 slice 19"]


def test_panels_of_a_montage_lie_within_the_figure_and_apart() -> None:
    image, shown = _thick()
    figure = overlay_figure(image, shown, shown, filled=False, errors=True, cuts=Cuts("montage", slices=9))
    boxes = [axes.get_position() for axes in figure.axes]
    assert len(boxes) == 27
    assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)
    assert not any(one.overlaps(other) and one.x1 > other.x0 and one.y1 > other.y0
                   and one.x0 < other.x1 and one.y0 < other.y1 for one, other in combinations(boxes, 2))  # fmt: skip


def test_a_slice_is_the_fullest_or_the_one_asked_for() -> None:
    image, shown = _thick()
    assert _labels(overlay_figure(image, shown, None, filled=False, cuts=Cuts("slice"))) == ["axis 2 slice 8"]
    asked = overlay_figure(image, shown, None, filled=False, cuts=Cuts("slice", axis=0, index=3))
    assert _labels(asked) == ["axis 0 slice 3"]
    with pytest.raises(UsageError, match="index needs a value from 0 to 19 on axis 0, got 20"):
        overlay_figure(image, shown, None, filled=False, cuts=Cuts("slice", axis=0, index=20))


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"layout": "grid"}, "layout needs planes or montage or slice, got 'grid'"),
        ({"layout": "montage", "slices": 0}, "slices needs a whole number from 1 on, got 0"),
        ({"layout": "slice", "axis": 3}, "axis needs 0, 1 or 2, got 3"),
        ({"axis": 1}, "axis needs layout slice or montage"),
        ({"layout": "montage", "index": 1}, "index needs layout slice, got layout montage"),
    ],
)
def test_cuts_without_a_meaning_are_refused(knobs: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Cuts(**knobs)


@pytest.mark.parametrize("knobs", [{"styles": ()}, {"formats": ("pdf",)}, {"styles": ("contour", "lines")}])
def test_drawings_without_a_meaning_are_refused(knobs: dict) -> None:
    with pytest.raises(UsageError, match="needs one of"):
        Drawing(**knobs)


def test_the_usual_drawing_is_the_configured_one() -> None:
    assert Drawing.of(plain(OmegaConf.load(conf_folder() / "train.yaml").pictures)) == Drawing()


def test_svg_is_vector_graphics_without_date_and_case_and_the_same_each_time(tmp_path: Path) -> None:
    image = image_of((40, 60))
    shown = predicted(image, rectangle((40, 60), slice(5, 35), slice(5, 55)), ORGAN, case_id="jane_doe")
    drawing = Drawing(styles=("contour",), formats=("svg", "png"))
    first, png = draw_overlay(image, shown, shown, tmp_path / "a", drawing=drawing)
    second, _ = draw_overlay(image, shown, shown, tmp_path / "b", drawing=drawing)
    assert (first.name, png.name) == ("jane_doe_contour.svg", "jane_doe_contour.png")
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    assert not any(word in text for word in ("jane", "<dc:date>", "Matplotlib v"))
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert PALETTE[0].lower() in text
