"""The planes of a case as arrays, for viewers that draw classes themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Integer, UInt8

from medexp.core.types import Image, Prediction
from medexp.engine._overlay_checks import check_case, window_of
from medexp.engine._overlay_errors import error_kinds, has_areas
from medexp.engine._overlay_parts import class_numbers, looks_of
from medexp.engine._overlay_planes import Plane, planes_of
from medexp.engine._overlay_words import caption_of


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
        errors: Values of `ErrorKind` at each pixel; None unless both have a mask or instances.
        pixel_mm: Height and width of a pixel (1 and 1 where there are no millimetres).
        classes: Names of the classes.
        referred_boxes: Objects of the reference that the plane meets and that are no instances.
        predicted_boxes: The same of the prediction.
        caption: What holds for the whole image, by the reference and by the prediction; empty where nothing does.
    """

    picture: Float[np.ndarray, "rows columns"]
    reference: Integer[np.ndarray, "rows columns"] | None
    prediction: Integer[np.ndarray, "rows columns"] | None
    errors: UInt8[np.ndarray, "rows columns"] | None
    pixel_mm: tuple[float, float]
    classes: tuple[str, ...]
    referred_boxes: tuple[ShownBox, ...] = ()
    predicted_boxes: tuple[ShownBox, ...] = ()
    caption: str = ""


def shown_slices(
    image: Image, prediction: Prediction, reference: Prediction | None, *, channel: int = 0
) -> list[ShownSlice]:
    """The planes that `overlay_figure` shows, as arrays.

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
    check_case(image, prediction, reference, channel=channel)
    low, high = window_of(image.pixels[channel])
    names = tuple(looks_of([prediction] if reference is None else [prediction, reference]))
    caption = caption_of_both(prediction, reference)
    slices = []
    for plane in planes_of(image.geometry, [prediction] if reference is None else [reference, prediction]):
        both = reference is not None and has_areas(prediction) and has_areas(reference)
        rows, columns = plane.pixels(image.geometry)
        height_mm, width_mm = plane.size_mm(image.geometry)
        slices.append(
            ShownSlice(
                picture=np.clip((plane.cut(image.pixels[channel], lead=0) - low) / (high - low), 0.0, 1.0),
                reference=None if reference is None else class_numbers(reference, plane, names),
                prediction=class_numbers(prediction, plane, names),
                errors=error_kinds(prediction, reference, plane) if reference is not None and both else None,
                pixel_mm=(height_mm / rows, width_mm / columns),
                classes=names,
                referred_boxes=() if reference is None else _boxes(reference, plane, names),
                predicted_boxes=_boxes(prediction, plane, names),
                caption=caption,
            )
        )
    return slices


def caption_of_both(prediction: Prediction | None, reference: Prediction | None) -> str:
    """What holds for the whole image, by the reference and by the prediction; empty where nothing does."""
    said = (
        ("reference", [] if reference is None else caption_of(reference, with_scores=False)),
        ("prediction", [] if prediction is None else caption_of(prediction, with_scores=True)),
    )
    return "; ".join(f"{who}: {', '.join(lines)}" for who, lines in said if lines)


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
