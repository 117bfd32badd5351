"""The picture of one frame of a tracked sequence: image, outlines, trails, ids, and a line of words below."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import find_objects

from medexp.association.scores import found_objects
from medexp.engine._overlay_layout import bar_length
from medexp.engine._track_scene import Scene
from medexp.engine._track_table import GREYS, TINT, nearest_level, tints
from medexp.engine._track_trails import Point, Step, Trails

_FAINTEST = 0.2
_LINE_PX = 2
_DOT_PX = 2
_CROSS_PX = 6
_WHITE, _BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
_FONT = ImageFont.load_default(size=11)
# Baseline of an id above the dot in the centre.
_ABOVE_PX = 4
STRIP_PX = 18
_MARGIN_PX = 4
_LONGEST_BAR = 0.25


@dataclass(frozen=True)
class FramePainter:
    """Draws frames of a sequence, all in one way.

    Attributes:
        scene: Where voxels lie in the picture.
        trails: Colours, centres and ways of the tracks.
        window: Intensities that are black and white.
        trail_frames: For how many frames a step of a track is seen, fainter with each.
        ids: Whether objects have their id written at their centre, where it finds room.
        reference: What is known of frames, to tell what was missed and what is false; None where nothing is.
    """

    scene: Scene
    trails: Trails
    window: tuple[float, float]
    trail_frames: int
    ids: bool
    reference: Mapping[int, Integer[np.ndarray, "*spatial"]] | None = None

    def frame(
        self, number: int, ids: Integer[np.ndarray, "*spatial"], pixels: Float[np.ndarray, "*spatial"] | None
    ) -> Image.Image:
        """The picture of a frame.

        Args:
            number: Its number.
            ids: Ids of tracks, 0 where there is none.
            pixels: The image, or None, which is black.

        Returns:
            An RGB picture, higher than the scene by `STRIP_PX`.
        """
        return self._drawn(number, ids, pixels, self.trails.lately(number, self.trail_frames))

    def still(
        self, number: int, ids: Integer[np.ndarray, "*spatial"], pixels: Float[np.ndarray, "*spatial"] | None
    ) -> Image.Image:
        """The picture of a frame with all steps that tracks made up to it, none of them faded; see `frame`."""
        steps = [step for step in self.trails.steps if step.frame <= number]
        return self._drawn(number, ids, pixels, ((step, 1.0) for step in steps))

    def _drawn(
        self,
        number: int,
        ids: Integer[np.ndarray, "*spatial"],
        pixels: Float[np.ndarray, "*spatial"] | None,
        steps: Iterable[tuple[Step, float]],
    ) -> Image.Image:
        shown = self.scene.foremost(ids)
        picture = Image.fromarray(_coloured(self._grey(pixels), shown, self.trails.colours)).convert("RGBA")
        picture.alpha_composite(self._lines(steps))
        places = self.trails.places[number]
        canvas = ImageDraw.Draw(picture)
        words = f"frame {number}   {len(places)} objects"
        if self.reference is not None and number in self.reference:
            words += self._write_errors(picture, ids, self.reference[number], places)
        for identity, (x, y) in places.items():
            dot = (x - _DOT_PX, y - _DOT_PX, x + _DOT_PX, y + _DOT_PX)
            canvas.ellipse(dot, fill=self.trails.colours[identity], outline=(0, 0, 0))
        if self.ids:
            _write_ids(canvas, shown, places)
        whole = Image.new("RGB", (picture.width, picture.height + STRIP_PX))
        whole.paste(picture.convert("RGB"))
        self._write_strip(ImageDraw.Draw(whole), words)
        return whole

    def _grey(self, pixels: Float[np.ndarray, "*spatial"] | None) -> UInt8[np.ndarray, "rows columns"]:
        if pixels is None:
            return np.zeros((self.scene.rows, self.scene.columns), dtype=np.uint8)
        low, high = self.window
        share = np.clip((np.nan_to_num(self.scene.brightest(pixels), nan=low) - low) / (high - low), 0.0, 1.0)
        return np.round(255 * share).astype(np.uint8)

    def _lines(self, steps: Iterable[tuple[Step, float]]) -> Image.Image:
        layer = Image.new("RGBA", (self.scene.columns, self.scene.rows))
        canvas = ImageDraw.Draw(layer)
        for step, share in steps:
            opacity = round(255 * max(share, _FAINTEST))
            canvas.line([step.start, step.end], fill=(*self.trails.colours[step.track], opacity), width=_LINE_PX)
            # A daughter's line does not cover where her mother was.
            for (x, y), track in ((step.start, step.came_from), (step.end, step.track)):
                canvas.rectangle((x - 1, y - 1, x, y), fill=(*self.trails.colours[track], opacity))
        return layer

    def _write_errors(
        self,
        picture: Image.Image,
        ids: Integer[np.ndarray, "*spatial"],
        known: Integer[np.ndarray, "*spatial"],
        places: Mapping[int, Point],
    ) -> str:
        """Outline what was missed in white dots, cross out what is false, and say how many there are."""
        found = found_objects(ids, known)
        missed = np.setdiff1d(known[known > 0], list(found))
        rim = _rim(self.scene.foremost(np.where(np.isin(known, missed), known, 0)))
        rows, columns = np.nonzero(rim)
        dots = np.asarray(picture).copy()
        dots[rows, columns] = np.where(((rows + columns) // 3 % 2 == 0)[:, None], _WHITE, _BLACK)
        picture.paste(Image.fromarray(dots))
        false = sorted(set(places) - set(found.values()))
        canvas = ImageDraw.Draw(picture)
        for x, y in (places[identity] for identity in false):
            for colour, width in ((_BLACK, 4), (_WHITE, 2)):
                for slope in (-1, 1):
                    ends = [(x - _CROSS_PX, y - slope * _CROSS_PX), (x + _CROSS_PX, y + slope * _CROSS_PX)]
                    canvas.line(ends, fill=colour, width=width)
        return f"   {len(missed)} missed (dotted)   {len(false)} false (crossed)"

    def _write_strip(self, canvas: ImageDraw.ImageDraw, words: str) -> None:
        """What is shown, and how long a length is."""
        baseline, end = self.scene.rows + STRIP_PX - 5, self.scene.columns - _MARGIN_PX
        text = "   ".join(filter(None, (words, self.scene.words)))
        canvas.text((_MARGIN_PX, baseline), text, font=_FONT, fill=(255, 255, 255), anchor="ls")
        length = bar_length(_LONGEST_BAR * self.scene.columns / self.scene.pixels_per_mm)
        named = f"{length:g} {self.scene.geometry.unit}"
        start = end - round(length * self.scene.pixels_per_mm)
        if _MARGIN_PX + canvas.textlength(text + "   " + named, font=_FONT) < start - _MARGIN_PX:
            canvas.line([(start, baseline - 3), (end, baseline - 3)], fill=(255, 255, 255), width=2)
            canvas.text((start - _MARGIN_PX, baseline), named, font=_FONT, fill=(255, 255, 255), anchor="rs")


def _coloured(
    grey: UInt8[np.ndarray, "rows columns"],
    ids: Integer[np.ndarray, "rows columns"],
    colours: Mapping[int, tuple[int, int, int]],
) -> UInt8[np.ndarray, "rows columns rgb"]:
    """The image with its objects tinted, and their outermost pixels in their colours."""
    table = np.zeros((max(colours, default=0) + 1, 3))
    for identity, colour in colours.items():
        table[identity] = colour
    rgb = np.repeat(nearest_level(grey, GREYS)[..., None], 3, axis=2)
    inside = ids > 0
    # Few shades, so that a GIF never takes one of another track for one that it has no room for.
    shade = nearest_level(grey[inside], tints(len(set(colours.values()))))
    rgb[inside] = (1 - TINT) * shade[:, None] + TINT * table[ids[inside]]
    rim = _rim(ids)
    rgb[rim] = table[ids[rim]]
    return np.round(rgb).astype(np.uint8)


def _rim(ids: Integer[np.ndarray, "rows columns"]) -> Bool[np.ndarray, "rows columns"]:
    """The pixels of objects that have another beside them, or none."""
    padded = np.pad(ids, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    rim: np.ndarray = (ids > 0) & np.any([beside != ids for beside in neighbours], axis=0)
    return rim


def _write_ids(
    canvas: ImageDraw.ImageDraw, shown: Integer[np.ndarray, "rows columns"], places: Mapping[int, Point]
) -> None:
    """Ids above the centres, white with a black rim, in the objects that are as wide and high as their ids."""
    boxes = find_objects(shown)
    for identity, (x, y) in places.items():
        box = boxes[identity - 1] if identity <= len(boxes) else None
        if box is None:
            continue
        left, top, right, bottom = canvas.textbbox((x, y - _ABOVE_PX), str(identity), font=_FONT, anchor="ms")
        if box[1].stop - box[1].start < right - left or box[0].stop - box[0].start < bottom - top:
            continue
        canvas.text(
            (x, y - _ABOVE_PX),
            str(identity),
            font=_FONT,
            anchor="ms",
            fill=(255, 255, 255),
            stroke_width=1,
            stroke_fill=(0, 0, 0),
        )
