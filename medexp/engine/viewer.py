"""A case as one HTML file that needs nothing else: slices to scroll through, with reference, prediction and errors."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from jinja2 import Environment, PackageLoader, StrictUndefined

from medexp.core.errors import DataError
from medexp.core.files import write_text
from medexp.core.geometry import Geometry
from medexp.core.types import Image, Prediction
from medexp.engine._overlay_checks import check_case, window_of
from medexp.engine._overlay_errors import ERROR_COLOURS, ErrorKind, error_kinds, has_areas, kinds_between
from medexp.engine._overlay_parts import Look, colour_numbers, looks_of
from medexp.engine._overlay_planes import Plane, plane_at
from medexp.engine._overlay_slices import caption_of_both

# Browsers hold a string of each packed array and the array itself; twice 512 x 512 x 64 voxels is what a page may have.
MAX_VOXELS = 2**25
_TEMPLATE = "viewer.html.j2"
_LEVELS = 4095
# How far beyond the usual window intensities are kept, in widths of it.
_BEYOND = 3.0
_MOST_LOOKS = 255
_VIEWS = {"LR": "sagittal", "PA": "coronal", "IS": "axial"}


def write_viewer(
    image: Image,
    prediction: Prediction | None,
    reference: Prediction | None,
    path: Path,
    *,
    channel: int = 0,
    max_voxels: int = MAX_VOXELS,
) -> Path:
    """Write the page of a case; it holds pixels, areas, boxes and class names, and nothing else of a patient.

    Intensities are kept in 4096 steps up to three widths beyond the window from the 1st to the 99th percentile. Where
    regions overlap the smaller one is shown. The browser is told to load nothing from anywhere.

    Args:
        image: The case; `pixels` of shape (channels, *spatial), in 2D or 3D.
        prediction: Its prediction on the image's grid, or None.
        reference: Its reference on the same grid, or None where there is a prediction.
        path: The file; one of the same name is replaced.
        channel: The image channel that is shown.
        max_voxels: Of a larger image every second (third, ...) voxel along each axis is shown, and the page says so.

    Returns:
        The file.

    Raises:
        UsageError: The image has no such channel.
        DataError: There is nothing that can be drawn, it is not on the image's grid, or it has over 255 classes.
    """
    check_case(image, prediction, reference, channel=channel)
    every = _every(image.geometry.shape, max_voxels)
    looks = looks_of([shown for shown in (prediction, reference) if shown is not None])
    shown = [(name, look.colour(number)) for name, look in looks.items() for number in range(len(look.colours))]
    if len(shown) > _MOST_LOOKS:
        raise DataError(f"the page shows {_MOST_LOOKS} classes at most, got {len(shown)}; draw it as png")
    compared: tuple[ErrorKind, ...] = ()
    layers = {"reference": _numbers(reference, looks), "prediction": _numbers(prediction, looks), "error": None}
    if prediction is not None and reference is not None and has_areas(prediction) and has_areas(reference):
        layers["error"] = error_kinds(prediction, reference)
        compared = kinds_between(prediction, reference)
    raw, scale = _quantised(_thinned(image.pixels[channel], every), window_of(image.pixels[channel]))
    about = {
        **_grid(image.geometry, every),
        **scale,
        "looks": [{"name": name, "colour": colour} for name, colour in shown],
        "errors": [
            {"name": kind.words, "colour": colour, "told": kind in compared} for kind, colour in ERROR_COLOURS.items()
        ],
        "boxes": [*_boxes(reference, looks, "reference", every), *_boxes(prediction, looks, "prediction", every)],
        "caption": caption_of_both(prediction, reference),
        "every": every,
    }
    packed = {name: _packed(_thinned(layer, every)) for name, layer in layers.items() if layer is not None}
    environment = Environment(loader=PackageLoader("medexp.engine", "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template(_TEMPLATE).render(about=about, pixels=_packed(raw), layers=packed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    return path


def _every(shape: tuple[int, ...], max_voxels: int) -> int:
    """The least n for which every n-th voxel along each axis makes no more than allowed."""
    every = 1
    while math.prod(-(-length // every) for length in shape) > max_voxels:
        every += 1
    return every


def _thinned(array: np.ndarray, every: int) -> np.ndarray:
    return array[(slice(None, None, every),) * array.ndim]


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 6)).decode()


def _quantised(
    pixels: Float[np.ndarray, "*spatial"], window: tuple[float, float]
) -> tuple[UInt8[np.ndarray, "2 *spatial"], dict[str, Any]]:
    """Intensities in steps, the lower bytes and then the higher ones, and what they stand for."""
    low, high = window
    finite = np.nan_to_num(pixels, nan=low, posinf=np.finfo(pixels.dtype).max, neginf=np.finfo(pixels.dtype).min)
    first = max(float(finite.min(initial=low)), low - _BEYOND * (high - low))
    last = min(float(finite.max(initial=high)), high + _BEYOND * (high - low))
    step = (last - first) / _LEVELS if last > first else 1.0
    raw = np.clip(np.round((finite - first) / step), 0, _LEVELS).astype(np.uint16)
    return np.stack([raw & 255, raw >> 8]).astype(np.uint8), {"first": first, "step": step, "window": [low, high]}


def _numbers(shown: Prediction | None, looks: Mapping[str, Look]) -> Integer[np.ndarray, "*spatial"] | None:
    """The look of each voxel, from 1 on, 0 where there is nothing; None without mask and instances."""
    if shown is None or not has_areas(shown):
        return None
    firsts = dict(zip(looks, np.cumsum([1, *(len(look.colours) for look in looks.values())]), strict=False))
    if shown.instances is not None:
        assert shown.objects is not None
        by_value = {structure.value: structure.name for structure in shown.classes}
        table = np.zeros(len(shown.objects) + 1, dtype=np.uint8)
        colours = colour_numbers(shown)
        for identity, value in enumerate(shown.objects.labels[: len(colours) - 1].tolist(), start=1):
            if value in by_value:
                name = by_value[value]
                table[identity] = firsts[name] + colours[identity] % len(looks[name].colours)
        return table[shown.instances]
    numbers = np.zeros(shown.geometry.shape, dtype=np.uint8)
    areas = [(structure.name, shown.binary(structure)) for structure in shown.classes]
    for name, inside in sorted(areas, key=lambda area: -int(np.count_nonzero(area[1]))):
        numbers[inside] = firsts[name]
    return numbers


def _grid(geometry: Geometry, every: int) -> dict[str, Any]:
    planes = [plane_at(geometry, axis, 0) for axis in (range(3) if geometry.spatial_dims == 3 else (None,))]
    shape = [-(-length // every) for length in geometry.shape]
    sizes = [n * spacing for n, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    return {
        "shape": shape,
        "spacing": [size / n for size, n in zip(sizes, shape, strict=True)],
        "unit": geometry.unit,
        "views": [_view(plane, geometry) for plane in planes],
    }


def _view(plane: Plane, geometry: Geometry) -> dict[str, Any]:
    letters = plane.letters(geometry)
    missing = None if letters is None else next(ends for ends in _VIEWS if not set(ends) & set(letters))
    return {
        "axis": plane.axis,
        "rows": plane.rows,
        "columns": plane.columns,
        "flip_rows": plane.flip_rows,
        "flip_columns": plane.flip_columns,
        "letters": letters,
        "name": "image" if plane.axis is None else f"axis {plane.axis}" if missing is None else _VIEWS[missing],
    }


def _boxes(shown: Prediction | None, looks: Mapping[str, Look], who: str, every: int) -> list[dict[str, Any]]:
    """Objects that are no instances, in voxels of the page."""
    if shown is None or shown.objects is None or shown.instances is not None:
        return []
    names = {structure.value: structure.name for structure in shown.classes}
    rows = zip(shown.objects.boxes, shown.objects.labels.tolist(), shown.objects.scores.tolist(), strict=True)
    return [
        {
            "of": who,
            "colour": looks[names[value]].colour(0),
            "ends": (ends / every).tolist(),
            "score": score if who == "prediction" else None,
        }
        for ends, value, score in rows
        if value in names
    ]
