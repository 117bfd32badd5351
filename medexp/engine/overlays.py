"""Pictures of one case: reference beside prediction, as contours and as areas."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Bool, Float, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path as MplPath
from skimage.measure import find_contours

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, orient_to_world
from medexp.core.types import Image, Prediction

# M. Okabe and K. Ito, Color universal design (2008), without black; the ones that stand out on grey come first.
PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2")
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_FILL_OPACITY = 0.45
_DPI = 200
_BOX_INCH = 3.2
_MARGIN_INCH = 0.3
_GAP_INCH = 0.08
_LEGEND_ROW_INCH = 0.17
_MAX_PIXELS = 2048
_WINDOW_SAMPLES = 1_000_000


@dataclass(frozen=True)
class _Plane:
    """A cut through the image as it is shown: rows run down, columns to the right.

    Attributes:
        axis: The image axis that is cut; None for a picture, which is shown whole.
        index: Where on that axis.
        rows: The image axis that runs down or up.
        columns: The image axis that runs to the right or left.
        flip_rows: True where `rows` runs up.
        flip_columns: True where `columns` runs to the left.
    """

    axis: int | None
    index: int
    rows: int
    columns: int
    flip_rows: bool
    flip_columns: bool

    def cut(self, array: Shaped[np.ndarray, "*lead_and_spatial"], *, lead: int) -> np.ndarray:
        """The plane of an array with `lead` axes before the spatial ones; a view."""
        if self.axis is not None:
            array = array.take(self.index, axis=lead + self.axis)
        if self.rows > self.columns:
            array = array.swapaxes(-1, -2)
        return array[..., :: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def size_mm(self, geometry: Geometry) -> tuple[float, float]:
        """Height and width."""
        height, width = (geometry.shape[axis] * geometry.spacing_mm[axis] for axis in (self.rows, self.columns))
        return height, width


@dataclass(frozen=True)
class _Look:
    """How a class is drawn."""

    colour: str
    dashes: str


def draw_overlay(
    image: Image, prediction: Prediction, reference: Prediction | None, folder: Path, *, channel: int = 0
) -> list[Path]:
    """Write two pictures of a case, one with the contour of each class and one with its area.

    Reference and prediction stand side by side over the image in grey, between its 1st and 99th percentile; without a
    reference the bare image takes its place. A volume is shown in three planes, each cut where the reference (else the
    prediction) has most foreground, else in the middle. Lengths are true to the voxel spacing. Millimetres are shown
    along the world's axes, the first to the right and the last upwards; pixels in the order of the array, rows down.
    The pictures do not name the case.

    Args:
        image: The case; `pixels` of shape (channels, *spatial), in 2D or 3D.
        prediction: Its prediction, with a mask on the image's grid.
        reference: Its reference on the same grid, or None.
        folder: Where to; made where it does not exist. Files of the same name are replaced.
        channel: The image channel that is shown.

    Returns:
        `<case>_contour.png` and `<case>_fill.png`.

    Raises:
        UsageError: The image has no such channel.
        DataError: A mask is missing, or not on the image's grid.
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
        DataError: A mask is missing, or not on the image's grid.
    """
    _check(image, prediction, reference, channel)
    planes = _planes(image.geometry, prediction, reference)
    looks = _looks(prediction, reference)
    figure, panels = _layout([plane.size_mm(image.geometry) for plane in planes], looks, filled=filled)
    window = _window(image.pixels[channel])
    for plane, pair in zip(planes, panels, strict=True):
        for axes, shown in zip(pair, (reference, prediction), strict=True):
            _draw_image(axes, plane.cut(image.pixels[channel], lead=0), plane.size_mm(image.geometry), window)
            if shown is not None:
                _draw_classes(axes, shown, plane, looks, filled=filled)
        if plane.axis is not None:
            pair[0].set_ylabel(f"axis {plane.axis} slice {plane.index}", fontsize=8)
    panels[0][0].set_title("reference" if reference is not None else "image", fontsize=9)
    panels[0][1].set_title("prediction", fontsize=9)
    return figure


def _check(image: Image, prediction: Prediction, reference: Prediction | None, channel: int) -> None:
    channels, shape = image.pixels.shape[0], image.pixels.shape[1:]
    where = f"case {prediction.case_id}"
    if not 0 <= channel < channels:
        raise UsageError(f"channel needs a value from 0 to {channels - 1} for {where}, got {channel}")
    if len(shape) not in (2, 3):
        raise DataError(f"an overlay needs a 2D or 3D image, got shape {shape} in {where}")
    for name, shown in (("prediction", prediction), ("reference", reference)):
        if shown is None:
            continue
        if shown.mask is None:
            raise DataError(
                f"the {name} of {where} has no mask; end the post-processing chain with a step that makes one"
            )
        if shown.mask.shape[1:] != shape:
            raise DataError(f"the {name} of {where} needs the image's shape {shape}, got {shown.mask.shape[1:]}")


def _planes(geometry: Geometry, prediction: Prediction, reference: Prediction | None) -> list[_Plane]:
    if geometry.spatial_dims == 2:
        return [_plane(geometry, None, 0)]
    foreground = None if reference is None else _foreground(reference)
    if foreground is None or not foreground.any():
        foreground = _foreground(prediction)
    return [_plane(geometry, axis, _fullest_slice(foreground, axis)) for axis in range(3)]


def _plane(geometry: Geometry, axis: int | None, index: int) -> _Plane:
    remaining = [other for other in range(geometry.spatial_dims) if other != axis]
    if geometry.unit == "px":
        return _Plane(axis, index, rows=remaining[0], columns=remaining[1], flip_rows=False, flip_columns=False)
    permutation, flipped = orient_to_world(geometry)
    columns, rows = (other for other in permutation if other in remaining)
    reversed_axes = {permutation[world_axis] for world_axis in flipped}
    return _Plane(
        axis,
        index,
        rows=rows,
        columns=columns,
        flip_rows=rows not in reversed_axes,
        flip_columns=columns in reversed_axes,
    )


def _foreground(prediction: Prediction) -> Bool[np.ndarray, "*spatial"]:
    assert prediction.mask is not None
    found = np.zeros(prediction.mask.shape[1:], dtype=bool)
    for layer, voxels in enumerate(prediction.mask):
        values = [structure.value for structure in prediction.classes if structure.layer == layer]
        found |= np.isin(voxels, values)
    return found


def _fullest_slice(foreground: Bool[np.ndarray, "x y z"], axis: int) -> int:
    """Index of the slice with most foreground; of equal ones the middle, so that a box is not cut at its face."""
    counts = np.count_nonzero(foreground, axis=tuple(other for other in range(3) if other != axis))
    fullest = np.flatnonzero(counts == counts.max())
    return int(fullest[len(fullest) // 2])


def _looks(prediction: Prediction, reference: Prediction | None) -> dict[str, _Look]:
    """Colour and dashes by class name; a class looks the same in both panels and, for one task, in all pictures."""
    known = prediction.classes + (reference.classes if reference is not None else ())
    names = dict.fromkeys(structure.name for structure in known)
    return {
        name: _Look(PALETTE[i % len(PALETTE)], _DASHES[i // len(PALETTE) % len(_DASHES)])
        for i, name in enumerate(names)
    }


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
    sizes_mm: Sequence[tuple[float, float]], looks: dict[str, _Look], *, filled: bool
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """A figure with a pair of empty panels per plane, all on one scale, and the legend at its foot."""
    scale = _BOX_INCH / max(length for size in sizes_mm for length in size)
    # A panel is no lower than its label is long.
    heights = [max(height * scale, 1.0) for height, _ in sizes_mm]
    width = max(max(width * scale for _, width in sizes_mm), 1.2)
    figure_width = 2 * (width + _MARGIN_INCH) + _GAP_INCH
    per_row = max(1, int(figure_width / (0.5 + 0.075 * max((len(_short(name)) for name in looks), default=1))))
    foot = 0.1 + _LEGEND_ROW_INCH * math.ceil(len(looks) / per_row)
    figure_height = foot + sum(heights) + _GAP_INCH * (len(heights) - 1) + _MARGIN_INCH
    figure = Figure(figsize=(figure_width, figure_height), dpi=_DPI, facecolor="white")
    panels = []
    top = figure_height - _MARGIN_INCH
    for height in heights:
        lefts = (_MARGIN_INCH, _MARGIN_INCH + width + _GAP_INCH)
        pair = [
            figure.add_axes(
                (x / figure_width, (top - height) / figure_height, width / figure_width, height / figure_height)
            )
            for x in lefts
        ]
        panels.append((pair[0], pair[1]))
        top -= height + _GAP_INCH
    _legend(figure, looks, per_row, filled=filled)
    return figure, panels


def _legend(figure: Figure, looks: dict[str, _Look], per_row: int, *, filled: bool) -> None:
    handles: list[Line2D | Patch] = []
    for look in looks.values():
        if filled:
            face = (*to_rgb(look.colour), _FILL_OPACITY)
            handles.append(Patch(facecolor=face, edgecolor=look.colour, linestyle=look.dashes, linewidth=0.8))
        else:
            handles.append(Line2D([], [], color=look.colour, linestyle=look.dashes, linewidth=1.6))
    names = [_short(name) for name in looks]
    legend = figure.legend(handles, names, loc="lower center", ncol=per_row, fontsize=8, frameon=False, borderpad=0.2)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _short(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:39]}…"


def _draw_image(
    axes: Axes, pixels: Float[np.ndarray, "rows columns"], size_mm: tuple[float, float], window: tuple[float, float]
) -> None:
    height, width = size_mm
    shown = _thin(pixels)
    axes.imshow(shown, cmap="gray", vmin=window[0], vmax=window[1], extent=(0.0, width, height, 0.0), aspect="equal")
    axes.set_xlim(0.0, width)
    axes.set_ylim(height, 0.0)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _thin(plane: Shaped[np.ndarray, "*layers rows columns"]) -> np.ndarray:
    """Every n-th pixel of a plane that is larger than any paper shows."""
    rows, columns = (math.ceil(length / _MAX_PIXELS) for length in plane.shape[-2:])
    return plane[..., ::rows, ::columns]


def _draw_classes(axes: Axes, shown: Prediction, plane: _Plane, looks: dict[str, _Look], *, filled: bool) -> None:
    """Draw the classes of a plane, the largest first, so that a region within another stays in sight."""
    width, height = axes.get_xlim()[1], axes.get_ylim()[0]
    areas = sorted(_areas(shown, plane), key=lambda entry: -int(np.count_nonzero(entry[1])))
    if filled and areas:
        colours = np.zeros((*areas[0][1].shape, 4))
        for name, area in areas:
            # The upper replaces the lower: mixed colours would be in no legend.
            colours[area] = (*to_rgb(looks[name].colour), _FILL_OPACITY)
        axes.imshow(colours, extent=(0.0, width, height, 0.0), aspect="equal", interpolation="nearest")
    for name, area in areas:
        lines = _contours(area, width / area.shape[1], height / area.shape[0])
        _draw_lines(axes, lines, looks[name], thickness_pt=0.6 if filled else 1.2)
    axes.set_xlim(0.0, width)
    axes.set_ylim(height, 0.0)


def _draw_lines(axes: Axes, lines: list[Float[np.ndarray, "_ 2"]], look: _Look, *, thickness_pt: float) -> None:
    """Draw outlines on their inner side alone, so that classes that touch do not hide each other's border."""
    strokes = LineCollection(lines, colors=look.colour, linestyles=look.dashes, linewidths=2 * thickness_pt)
    axes.add_collection(strokes, autolim=False)
    inside = MplPath.make_compound_path(*(MplPath(line, closed=True) for line in lines))
    strokes.set_clip_path(inside, axes.transData)


def _areas(shown: Prediction, plane: _Plane) -> Iterator[tuple[str, Bool[np.ndarray, "rows columns"]]]:
    """Each class that the plane meets; only the plane is compared, as a volume may have a hundred classes."""
    assert shown.mask is not None
    cut = replace(shown, mask=_thin(plane.cut(shown.mask, lead=1)), probabilities=None, valid=None)
    for structure in shown.classes:
        area = cut.binary(structure)
        if area.any():
            yield structure.name, area


def _contours(
    area: Bool[np.ndarray, "rows columns"], column_mm: float, row_mm: float
) -> list[Float[np.ndarray, "_ 2"]]:
    """Closed outlines, halfway between the pixels inside and outside; at the image's border along its edge."""
    # Pixel i lies at i + 1 in the padded area, and its centre at (i + 1/2) * spacing in the picture.
    lines = find_contours(np.pad(area, 1).astype(np.float32), 0.5)
    return [np.stack([(line[:, 1] - 0.5) * column_mm, (line[:, 0] - 0.5) * row_mm], axis=1) for line in lines]
