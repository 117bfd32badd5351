"""Pictures of one case: reference beside prediction, as contours and as areas."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float, Integer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Image, Kind, Prediction
from medexp.engine._overlay_parts import (
    FILL_OPACITY,
    PALETTE,
    Look,
    Panel,
    caption_of,
    class_numbers,
    has_places,
    looks_of,
)
from medexp.engine._overlay_planes import Plane, planes_of

_DPI = 200
_BOX_INCH = 3.2
_MARGIN_INCH = 0.3
_GAP_INCH = 0.08
_LEGEND_ROW_INCH = 0.17
_CAPTION_ROW_INCH = 0.15
_LETTER_INCH = 0.075
_WINDOW_SAMPLES = 1_000_000

__all__ = ["PALETTE", "ShownBox", "ShownSlice", "draw_overlay", "overlay_figure", "safe_name", "shown_slices"]


@dataclass(frozen=True)
class ShownBox:
    """An object without an area of its own, in shares of the picture's width and height from its upper left corner.

    Attributes:
        left: Share of the width.
        top: Share of the height.
        right: Share of the width; that of `left` for an object without extent.
        bottom: Share of the height.
        number: Place of the class in `ShownSlice.classes`, from 1 on.
        score: Confidence from 0 to 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    number: int
    score: float


@dataclass(frozen=True, eq=False)
class ShownSlice:
    """A plane of a case as the pictures show it.

    Attributes:
        picture: Intensities from 0 (black) to 1 (white).
        reference: Place of the class at each pixel in `classes`, from 1 on, 0 where there is none; None without a
            mask or instances.
        prediction: The same of the prediction.
        classes: Names of the classes.
        referred_boxes: Objects of the reference that the plane meets and that are no instances.
        predicted_boxes: The same of the prediction.
        caption: What holds for the whole image, by the reference and by the prediction; empty where nothing does.
    """

    picture: Float[np.ndarray, "rows columns"]
    reference: Integer[np.ndarray, "rows columns"] | None
    prediction: Integer[np.ndarray, "rows columns"] | None
    classes: tuple[str, ...]
    referred_boxes: tuple[ShownBox, ...] = ()
    predicted_boxes: tuple[ShownBox, ...] = ()
    caption: str = ""


def draw_overlay(
    image: Image, prediction: Prediction, reference: Prediction | None, folder: Path, *, channel: int = 0
) -> list[Path]:
    """Write two pictures of a case, one with contours and one with areas.

    Reference and prediction stand side by side over the image in grey, between its 1st and 99th percentile; without a
    reference the bare image takes its place. A volume is shown in three planes, each cut where the reference (else the
    prediction) has most foreground, else in the middle. Lengths are true to the voxel spacing. Millimetres are shown
    along the world's axes, the first to the right and the last upwards; pixels in the order of the array, rows down.
    The pictures do not name the case.

    What is drawn is what the two hold. Instances have a contour each, in the colour of their class or, of a single
    class, in colours that tell them apart; else each class of the mask has one. Objects that are no instances are
    rectangles, those without extent crosses, in the planes that they meet; predicted ones have their score beside them
    and are faint where it is low. Scores of the whole image and the number that a density counts stand over the panels;
    the density itself is laid over the image where areas are drawn.

    Args:
        image: The case; `pixels` of shape (channels, *spatial), in 2D or 3D.
        prediction: Its prediction, on the image's grid.
        reference: Its reference on the same grid, or None.
        folder: Where to; made where it does not exist. Files of the same name are replaced.
        channel: The image channel that is shown.

    Returns:
        `<case>_contour.png` and `<case>_fill.png`.

    Raises:
        UsageError: The image has no such channel.
        DataError: There is nothing that can be drawn, or it is not on the image's grid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for style in ("contour", "fill"):
        figure = overlay_figure(image, prediction, reference, filled=style == "fill", channel=channel)
        paths.append(folder / f"{safe_name(prediction.case_id)}_{style}.png")
        with warnings.catch_warnings():
            # A class may be named in a script that the font lacks; the boxes it leaves are all one could do.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            FigureCanvasAgg(figure).print_png(paths[-1], metadata={"Software": None})
    return paths


def safe_name(case_id: str) -> str:
    """A file name for a case: unsafe characters percent-encoded, a very long name cut and told apart by its hash.

    >>> safe_name("liver/012 a")
    'liver%2F012%20a'
    """
    name = quote(case_id, safe="")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    return name if len(name) <= 200 else f"{name[:180]}-{hashlib.sha256(case_id.encode()).hexdigest()[:16]}"


def overlay_figure(
    image: Image, prediction: Prediction, reference: Prediction | None, *, filled: bool, channel: int = 0
) -> Figure:
    """The figure of one case, see `draw_overlay`; its axes run row by row in millimetres (pixels where there are none).

    Args:
        image: The case.
        prediction: Its prediction.
        reference: Its reference, or None.
        filled: Areas instead of contours.
        channel: The image channel that is shown.

    Returns:
        The figure, without a canvas.

    Raises:
        UsageError: The image has no such channel.
        DataError: There is nothing that can be drawn, or it is not on the image's grid.
    """
    _check(image, prediction, reference, channel)
    planes = planes_of(image.geometry, prediction, reference)
    looks = looks_of(prediction, reference)
    captions = (
        [] if reference is None else caption_of(reference, with_scores=False),
        caption_of(prediction, with_scores=True),
    )
    sizes_mm = [plane.size_mm(image.geometry) for plane in planes]
    caption_lines = max(map(len, captions))
    figure, pairs = _layout(sizes_mm, looks, filled=filled, caption_lines=caption_lines)
    window = _window(image.pixels[channel])
    for plane, pair in zip(planes, pairs, strict=True):
        for axes, shown in zip(pair, (reference, prediction), strict=True):
            panel = Panel(axes, plane, image.geometry, looks, filled)
            panel.draw_image(image.pixels[channel], window)
            if shown is not None:
                panel.draw(shown, with_scores=shown is prediction)
        if plane.axis is not None:
            pair[0].set_ylabel(f"axis {plane.axis} slice {plane.index}", fontsize=8)
    for axes, name, caption in zip(
        pairs[0], ("image" if reference is None else "reference", "prediction"), captions, strict=True
    ):
        _write_title(axes, [name, *caption, *[""] * (caption_lines - len(caption))])
    return figure


def shown_slices(
    image: Image, prediction: Prediction, reference: Prediction | None, *, channel: int = 0
) -> list[ShownSlice]:
    """The planes that `overlay_figure` shows, as arrays: for viewers that draw classes themselves.

    Args:
        image: The case.
        prediction: Its prediction.
        reference: Its reference, or None.
        channel: The image channel that is shown.

    Returns:
        One slice for a picture, three for a volume.

    Raises:
        UsageError: The image has no such channel.
        DataError: There is nothing that can be drawn, or it is not on the image's grid.
    """
    _check(image, prediction, reference, channel)
    low, high = _window(image.pixels[channel])
    names = tuple(looks_of(prediction, reference))
    said = {"reference": [] if reference is None else caption_of(reference, with_scores=False)}
    said["prediction"] = caption_of(prediction, with_scores=True)
    return [
        ShownSlice(
            picture=np.clip((plane.cut(image.pixels[channel], lead=0) - low) / (high - low), 0.0, 1.0),
            reference=None if reference is None else class_numbers(reference, plane, names),
            prediction=class_numbers(prediction, plane, names),
            classes=names,
            referred_boxes=() if reference is None else _boxes(reference, plane, names),
            predicted_boxes=_boxes(prediction, plane, names),
            caption="; ".join(f"{who}: {', '.join(lines)}" for who, lines in said.items() if lines),
        )
        for plane in planes_of(image.geometry, prediction, reference)
    ]


def _boxes(shown: Prediction, plane: Plane, names: tuple[str, ...]) -> tuple[ShownBox, ...]:
    if shown.objects is None or shown.instances is not None:
        return ()
    by_value = {structure.value: names.index(structure.name) + 1 for structure in shown.classes}
    objects = shown.objects.select(plane.crosses(shown.objects) & np.isin(shown.objects.labels, list(by_value)))
    height, width = plane.size_mm(shown.geometry)
    corners = np.hstack(plane.place(objects, shown.geometry)) / np.array([width, height, width, height])
    numbers = [by_value[value] for value in objects.labels.tolist()]
    of_boxes = zip(np.clip(corners, 0.0, 1.0).tolist(), numbers, objects.scores.tolist(), strict=True)
    return tuple(
        ShownBox(left, top, right, bottom, number, score) for (left, top, right, bottom), number, score in of_boxes
    )


def _check(image: Image, prediction: Prediction, reference: Prediction | None, channel: int) -> None:
    channels, shape = image.pixels.shape[0], image.pixels.shape[1:]
    where = f"case {prediction.case_id}"
    if not 0 <= channel < channels:
        raise UsageError(f"channel needs a value from 0 to {channels - 1} for {where}, got {channel}")
    if len(shape) not in (2, 3):
        raise DataError(f"an overlay needs a 2D or 3D image, got shape {shape} in {where}")
    for name, shown in (("prediction", prediction), ("reference", reference)):
        if shown is not None:
            _check_shown(shown, f"the {name} of {where}", shape)


def _check_shown(shown: Prediction, who: str, shape: tuple[int, ...]) -> None:
    if not has_places(shown) and shown.scores is None:
        raise DataError(
            f"{who} has no mask, instances, objects, density or scores to draw; end the post-processing chain with a "
            "step that makes one"
        )
    for layers in (shown.mask, shown.instances, shown.maps.get(Kind.DENSITY)):
        if layers is not None and layers.shape[-len(shape) :] != shape:
            raise DataError(f"{who} needs the image's shape {shape}, got {layers.shape[-len(shape) :]}")
    if shown.objects is not None and shown.objects.spatial_dims != len(shape):
        raise DataError(f"{who} needs objects of {len(shape)} dimensions, got {shown.objects.spatial_dims}")
    if shown.instances is not None and int(shown.instances.max(initial=0)) > len(shown.objects or ()):
        raise DataError(f"{who} needs an object for each instance, got {len(shown.objects or ())} objects")


def _window(pixels: Float[np.ndarray, "*spatial"]) -> tuple[float, float]:
    """The intensities that are shown black and white: 1st and 99th percentile of the finite ones, from a sample."""
    flat = pixels.reshape(-1)
    sample = flat[:: max(1, flat.size // _WINDOW_SAMPLES)]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(sample, (1, 99)))
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def _layout(
    sizes_mm: Sequence[tuple[float, float]], looks: Mapping[str, Look], *, filled: bool, caption_lines: int
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with a pair of empty panels per plane, all on one scale, and the legend at its foot."""
    scale = _BOX_INCH / max(length for size in sizes_mm for length in size)
    # A panel is no lower than its label is long.
    heights = [max(height * scale, 1.0) for height, _ in sizes_mm]
    width = max(max(width * scale for _, width in sizes_mm), 1.2)
    figure_width = 2 * (width + _MARGIN_INCH) + _GAP_INCH
    longest = max((len(_short(name)) for name in looks), default=1)
    per_row = max(1, int(figure_width / (0.5 + _LETTER_INCH * longest)))
    foot = 0.1 + _LEGEND_ROW_INCH * math.ceil(len(looks) / per_row)
    head = _MARGIN_INCH + _CAPTION_ROW_INCH * caption_lines
    figure_height = foot + sum(heights) + _GAP_INCH * (len(heights) - 1) + head
    figure = Figure(figsize=(figure_width, figure_height), dpi=_DPI, facecolor="white")
    pairs = []
    top = figure_height - head
    for height in heights:
        lefts = (_MARGIN_INCH, _MARGIN_INCH + width + _GAP_INCH)
        places = [(x / figure_width, (top - height) / figure_height) for x in lefts]
        left, right = (figure.add_axes((*at, width / figure_width, height / figure_height)) for at in places)
        pairs.append((left, right))
        top -= height + _GAP_INCH
    _legend(figure, looks, per_row, filled=filled)
    return figure, pairs


def _legend(figure: Figure, looks: Mapping[str, Look], per_row: int, *, filled: bool) -> None:
    if not looks:
        return
    several: list[Any] = [
        tuple(_handle(look, colour, filled=filled) for colour in look.colours[:3]) for look in looks.values()
    ]
    legend = figure.legend(
        several,
        [_short(name) for name in looks],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
        loc="lower center",
        ncol=per_row,
        fontsize=8,
        frameon=False,
        borderpad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _handle(look: Look, colour: str, *, filled: bool) -> Line2D | Patch:
    if not filled:
        return Line2D([], [], color=colour, linestyle=look.dashes, linewidth=1.6)
    face = (*to_rgb(colour), FILL_OPACITY)
    return Patch(facecolor=face, edgecolor=colour, linestyle=look.dashes, linewidth=0.8)


def _write_title(axes: Axes, lines: Sequence[str]) -> None:
    letters = max(8, int(axes.get_window_extent().width / _DPI / _LETTER_INCH))
    title = axes.set_title("\n".join(_short(line, letters) for line in lines), fontsize=9)
    title.set_parse_math(False)


def _short(name: str, letters: int = 40) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
