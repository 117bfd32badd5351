"""Pictures of one case: reference beside prediction, as contours and as areas."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from medexp.core.errors import UsageError
from medexp.core.files import safe_name
from medexp.core.types import Image, Prediction
from medexp.engine._instance_colours import PALETTE
from medexp.engine._overlay_checks import check_case, window_of
from medexp.engine._overlay_errors import ERROR_COLOURS, error_kinds, has_areas, kinds_between
from medexp.engine._overlay_layout import class_handles, figure_of, patch_handle, write_title
from medexp.engine._overlay_parts import ERROR_OPACITY, Panel, colour_numbers, looks_of
from medexp.engine._overlay_planes import PLANES, Cuts, planes_of
from medexp.engine._overlay_slices import ShownBox, ShownSlice, shown_slices
from medexp.engine._overlay_words import caption_of

STYLES = ("contour", "fill")
FORMATS = ("png", "svg")

__all__ = [
    "PALETTE",
    "Cuts",
    "Drawing",
    "ShownBox",
    "ShownSlice",
    "draw_overlay",
    "overlay_figure",
    "safe_name",
    "shown_slices",
    "write_figure",
]


@dataclass(frozen=True)
class Drawing:
    """How the pictures of a case are drawn.

    Attributes:
        styles: "contour" (lines along the borders), "fill" (areas that the image shines through).
        formats: "png", "svg".
        errors: A panel more that shows where prediction and reference differ, where both have areas.
        channel: The image channel that is shown.
        cuts: Which planes of a volume.
        ids: Whether instances have their id written in them, where it finds room.

    Raises:
        UsageError: A value has no meaning.
    """

    styles: tuple[str, ...] = STYLES
    formats: tuple[str, ...] = ("png",)
    errors: bool = True
    channel: int = 0
    cuts: Cuts = PLANES
    ids: bool = True

    def __post_init__(self) -> None:
        for name, values, known in (("styles", self.styles, STYLES), ("formats", self.formats, FORMATS)):
            if not values or not set(values) <= set(known):
                raise UsageError(f"{name} needs one of {', '.join(known)} at least and no other, got {list(values)}")

    @classmethod
    def of(cls, knobs: Mapping[str, Any]) -> Drawing:
        """The drawing that the knobs of `pictures` describe."""
        return cls(
            styles=tuple(knobs["styles"]),
            formats=tuple(knobs["formats"]),
            errors=knobs["errors"],
            channel=knobs["channel"],
            cuts=Cuts(layout=knobs["layout"], slices=knobs["slices"]),
            ids=knobs["ids"],
        )


USUAL = Drawing()


def draw_overlay(
    image: Image,
    prediction: Prediction | None,
    reference: Prediction | None,
    folder: Path,
    *,
    drawing: Drawing = USUAL,
) -> list[Path]:
    """Write pictures of a case: one with contours and one with areas, unless told otherwise.

    Reference and prediction stand side by side over the image in grey, between its 1st and 99th percentile; the bare
    image takes the place of one that is not given. Beside them stands where they differ. A volume is shown in planes,
    each cut where the reference (else the prediction) has most foreground, else in the middle. Lengths are true to the
    voxel spacing, and a bar below shows one. Millimetres are shown along the world's axes, the first to the right and
    the last upwards; pixels in the order of the array, rows down. Letters say which side of the patient an edge is,
    where the affine tells it. The pictures do not name the case.

    What is drawn is what the two hold. Instances have a contour and their id each, in the colour of their class or, of
    a single class, in colours of which no two alike touch; else each class of the mask has one, in a colour and with
    dashes of its own. Objects that are no instances are rectangles, those without extent crosses, in the planes that
    they meet; predicted ones have their score beside them and are faint where it is low. Scores of the whole image and
    the number that a density counts stand over the panels; the density itself is laid over the image where areas are
    drawn.

    Args:
        image: The case; `pixels` of shape (channels, *spatial), in 2D or 3D.
        prediction: Its prediction on the image's grid, or None.
        reference: Its reference on the same grid, or None where there is a prediction.
        folder: Where to; made where it does not exist. Files of the same name are replaced.
        drawing: How it is drawn.

    Returns:
        `<case>_<style>.<format>` of each style and format.

    Raises:
        UsageError: The image has no such channel or slice.
        DataError: There is nothing that can be drawn, or it is not on the image's grid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = prediction or reference
    stem = folder / safe_name(image.case.case_id if named is None else named.case_id)
    paths = []
    for style in drawing.styles:
        figure = overlay_figure(
            image,
            prediction,
            reference,
            filled=style == "fill",
            channel=drawing.channel,
            errors=drawing.errors,
            cuts=drawing.cuts,
            ids=drawing.ids,
        )
        paths += [write_figure(figure, Path(f"{stem}_{style}.{form}")) for form in drawing.formats]
    return paths


def write_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, by the file's ending: the same bytes for the same figure, without date and program.

    Args:
        figure: The figure.
        path: The file; one of the same name is replaced.

    Returns:
        The file.
    """
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": "medexp"}):
        # A class may be named in a script that the font lacks; the boxes it leaves are all one could do.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        if path.suffix == ".svg":
            FigureCanvasSVG(figure).print_svg(path, metadata={"Date": None, "Creator": None})
        else:
            FigureCanvasAgg(figure).print_png(path, metadata={"Software": None})
    return path


def overlay_figure(
    image: Image,
    prediction: Prediction | None,
    reference: Prediction | None,
    *,
    filled: bool,
    channel: int = 0,
    errors: bool = False,
    cuts: Cuts = PLANES,
    ids: bool = False,
) -> Figure:
    """The figure of one case, see `draw_overlay`; its axes run row by row in millimetres (pixels where there are none).

    Args:
        image: The case.
        prediction: Its prediction, or None.
        reference: Its reference, or None.
        filled: Areas instead of contours.
        channel: The image channel that is shown.
        errors: A panel more that shows where the two differ, where both have areas.
        cuts: Which planes of a volume.
        ids: Whether instances have their id written in them, where it finds room.

    Returns:
        The figure, without a canvas.

    Raises:
        UsageError: The image has no such channel or slice.
        DataError: There is nothing that can be drawn, or it is not on the image's grid.
    """
    check_case(image, prediction, reference, channel=channel)
    columns = _columns(prediction, reference)
    compared = None
    if errors and prediction is not None and reference is not None and has_areas(prediction) and has_areas(reference):
        compared = (prediction, reference)
    planes = planes_of(image.geometry, [shown for shown in (reference, prediction) if shown is not None], cuts)
    looks = looks_of([shown for shown in (prediction, reference) if shown is not None])
    captions = {name: _caption(name, shown) for name, shown in columns.items()}
    handles: dict[str, Any] = dict(class_handles(looks, filled=filled))
    if compared is not None:
        handles |= {kind.words: patch_handle(ERROR_COLOURS[kind], ERROR_OPACITY) for kind in kinds_between(*compared)}
        captions["error"] = []
    figure, rows = figure_of(
        [plane.size_mm(image.geometry) for plane in planes],
        columns=len(captions),
        montage=cuts.layout == "montage",
        caption_lines=max(map(len, captions.values())),
        handles=handles,
        unit=image.geometry.unit,
    )
    window = window_of(image.pixels[channel])
    numbers = {name: colour_numbers(shown) for name, shown in columns.items() if shown is not None}
    for plane, row in zip(planes, rows, strict=True):
        panels = [Panel(axes, plane, image.geometry, looks, filled, ids) for axes in row]
        for panel in panels:
            panel.draw_image(image.pixels[channel], window)
        _draw_over(panels, columns, numbers, compared)
    for row in rows:
        if row[0].get_position().y1 == rows[0][0].get_position().y1:
            _write_titles(row, captions if row is rows[0] else {name: [] for name in captions})
    return figure


def _columns(prediction: Prediction | None, reference: Prediction | None) -> dict[str, Prediction | None]:
    """What each panel of a plane shows, by its title; the bare image in place of what is not there."""
    if prediction is None:
        return {"image": None, "reference": reference}
    return {"image" if reference is None else "reference": reference, "prediction": prediction}


def _caption(name: str, shown: Prediction | None) -> list[str]:
    return [] if shown is None else caption_of(shown, with_scores=name == "prediction")


def _draw_over(
    panels: Sequence[Panel],
    columns: Mapping[str, Prediction | None],
    numbers: Mapping[str, Integer[np.ndarray, "ids"]],
    compared: tuple[Prediction, Prediction] | None,
) -> None:
    """Draw what lies over the image in the panels of a plane."""
    plane = panels[0].plane
    for panel, (name, shown) in zip(panels, columns.items(), strict=False):
        if shown is not None:
            panel.draw(shown, numbers[name], with_scores=name == "prediction")
    if compared is not None:
        panels[-1].draw_errors(error_kinds(*compared, plane))
    panels[0].write_letters()
    if plane.axis is not None:
        panels[0].axes.set_ylabel(f"axis {plane.axis} slice {plane.index}", fontsize=8)


def _write_titles(axes: Sequence[Axes], captions: Mapping[str, Sequence[str]]) -> None:
    lines = max(map(len, captions.values()))
    for one, (name, caption) in zip(axes, captions.items(), strict=True):
        write_title(one, [name, *caption, *[""] * (lines - len(caption))])
