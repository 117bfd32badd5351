"""Pictures of a tracked sequence: an animated GIF, a page that plays it, and a still with all trails."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Float, Integer
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from medexp.core.errors import DataError, UsageError
from medexp.core.files import safe_name, write_atomic
from medexp.core.tracks import TrackedSequence
from medexp.engine._overlay_checks import window_of
from medexp.engine._track_frames import FramePainter
from medexp.engine._track_scene import Scene
from medexp.engine._track_table import ColourTable, colour_table
from medexp.engine._track_trails import trails_of

FORMATS = ("gif", "html", "png")
_TEMPLATE = "track_pictures.html.j2"
# Browsers play anything faster at a speed of their own.
_MOST_PER_SECOND = 50
# Frames whose intensities decide on black and white.
_SAMPLED = 5

Frames = Callable[[int], Float[np.ndarray, "*spatial"]]


@dataclass(frozen=True)
class TrackDrawing:
    """How a tracked sequence is drawn.

    Attributes:
        formats: "gif" (animated), "html" (a page that plays it), "png" (the last frame with all trails).
        trail_frames: For how many frames a step of a track is seen, fainter with each; 0 for no trails.
        frames_per_second: Speed of the GIF, rounded to hundredths of a second a frame, and of the page at first.
        ids: Whether objects have their id written at their centre, where it finds room.

    Raises:
        UsageError: A value has no meaning.
    """

    formats: tuple[str, ...] = FORMATS
    trail_frames: int = 10
    frames_per_second: float = 5.0
    ids: bool = True

    def __post_init__(self) -> None:
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise UsageError(f"formats needs one of {', '.join(FORMATS)} at least, got {list(self.formats)}")
        if self.trail_frames < 0:
            raise UsageError(f"trail_frames needs a whole number from 0 on, got {self.trail_frames}")
        if not 0 < self.frames_per_second <= _MOST_PER_SECOND:
            raise UsageError(
                f"frames_per_second needs a value above 0 and up to {_MOST_PER_SECOND}, got {self.frames_per_second}"
            )

    @property
    def duration_ms(self) -> int:
        """How long a frame is seen, in hundredths of a second as a GIF has them."""
        return 10 * round(100 / self.frames_per_second)


USUAL = TrackDrawing()


def draw_tracks(
    tracked: TrackedSequence,
    images: Frames | None,
    folder: Path,
    *,
    reference: Mapping[int, Integer[np.ndarray, "*spatial"]] | None = None,
    drawing: TrackDrawing = USUAL,
) -> list[Path]:
    """Write pictures of a tracked sequence.

    Each frame is shown in grey, between the 1st and 99th percentile of some of them, with the objects tinted and
    outlined in the colour of their track, which is the same in all frames; no two tracks that touch in any frame share
    one. A line follows the last steps of each track, across gaps and from a parent to each of its daughters. Volumes
    are looked at along their widest voxels: the image is the maximum, the object the first there, and centres are where
    they are. The pictures do not name the sequence.

    Where a reference is given, objects of it that were missed are outlined in white dots, and those that found none are
    crossed out; an object is found by one that covers more than half of it, as for the measure DET.

    A frame is read, drawn and packed before the next one is read.

    Args:
        tracked: The tracks; at least one frame.
        images: Gives the image of a frame by its number; None for a black one.
        folder: Where to; made where it does not exist. Files of the same name are replaced.
        reference: Ids of what is known, by number of the frame; None where nothing is.
        drawing: How it is drawn.

    Returns:
        `<sequence>_tracks.<format>` of each format.

    Raises:
        DataError: An image, or a frame of the reference, has another shape than the objects.
    """
    scene = Scene.of(tracked.sequence.geometry)
    trails = trails_of(tracked, scene)
    images = None if images is None else _checked(images, tracked)
    for frame, known in (reference or {}).items():
        _check_shape(known.shape, f"the reference of frame {frame}", tracked)
    window = (0.0, 1.0) if images is None else _window(tracked, images)
    painter = FramePainter(scene, trails, window, drawing.trail_frames, drawing.ids, reference)
    stem = folder / f"{safe_name(tracked.sequence.name)}_tracks"
    paths = {form: Path(f"{stem}.{form}") for form in drawing.formats}
    folder.mkdir(parents=True, exist_ok=True)
    if "png" in paths:
        last = max(tracked.sequence.frames)
        still = painter.still(last, tracked.sequence.frames[last], None if images is None else images(last))
        write_atomic(paths["png"], lambda stream: still.save(stream, "PNG"))
    if "gif" in paths or "html" in paths:
        packed = dict(_packed(tracked, images, painter))
        if "gif" in paths:
            write_atomic(paths["gif"], lambda stream: _write_gif(packed, drawing, stream))
        if "html" in paths:
            write_atomic(paths["html"], lambda stream: _write_page(packed, drawing, scene, stream))
    return list(paths.values())


def _checked(images: Frames, tracked: TrackedSequence) -> Frames:
    def image(frame: int) -> Float[np.ndarray, "*spatial"]:
        pixels = images(frame)
        _check_shape(pixels.shape, f"the image of frame {frame}", tracked)
        return pixels

    return image


def _check_shape(shape: tuple[int, ...], what: str, tracked: TrackedSequence) -> None:
    expected = tracked.sequence.geometry.shape
    if shape != expected:
        raise DataError(
            f"{what} of sequence {tracked.sequence.name} needs the objects' shape {expected}, got {shape}; name the "
            "files that belong to these objects"
        )


def _window(tracked: TrackedSequence, images: Frames) -> tuple[float, float]:
    numbers = list(tracked.sequence.frames)
    chosen = np.unique(np.linspace(0, len(numbers) - 1, _SAMPLED).round().astype(int)).tolist()
    return window_of(np.concatenate([images(numbers[place]).reshape(-1) for place in chosen]))


def _packed(tracked: TrackedSequence, images: Frames | None, painter: FramePainter) -> Iterator[tuple[int, bytes]]:
    """Frames by number as PNG, with one table of colours."""
    table = ColourTable(colour_table(painter.trails.colours.values()))
    for number, ids in tracked.sequence.frames.items():
        picture = painter.frame(number, ids, None if images is None else images(number))
        buffer = BytesIO()
        table.indexed(picture).save(buffer, "PNG")
        yield number, buffer.getvalue()


def _write_gif(packed: Mapping[int, bytes], drawing: TrackDrawing, stream: IO[bytes]) -> None:
    frames = (Image.open(BytesIO(png)) for png in packed.values())
    first = next(frames)
    palette = bytes(first.getpalette() or ())
    first.save(
        stream,
        "GIF",
        save_all=True,
        append_images=frames,
        duration=drawing.duration_ms,
        loop=0,
        palette=palette,
    )


def _write_page(packed: Mapping[int, bytes], drawing: TrackDrawing, scene: Scene, stream: IO[bytes]) -> None:
    environment = Environment(loader=PackageLoader("medexp.engine", "."), autoescape=True, undefined=StrictUndefined)
    frames = ((number, base64.b64encode(png).decode()) for number, png in packed.items())
    environment.get_template(_TEMPLATE).stream(
        frames=frames,
        first=next(iter(packed)),
        duration_ms=drawing.duration_ms,
        trail_frames=drawing.trail_frames,
        ids=drawing.ids,
        view=scene.words,
    ).dump(stream, encoding="utf-8")
