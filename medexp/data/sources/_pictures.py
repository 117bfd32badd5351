"""Reading PNG, JPEG, BMP, GIF and TIFF files with every value as it is stored."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import tifffile
from jaxtyping import Shaped
from PIL import Image
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from medexp.core.errors import DataError
from medexp.core.faults import Fault

TIFF = (".tif", ".tiff")
JPEG = (".jpg", ".jpeg")
PICTURES = (".png", *TIFF, *JPEG, ".bmp", ".gif")

# A file is read as what its name says: a JPEG that is called PNG is a fault, above all as a mask.
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF"}
_MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "I;16", "I;16B", "I", "F")
# What tifffile decodes without a further package; the rest is left to the libtiff of Pillow and SimpleITK.
_PLAIN = (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS)
_LOSSY = (COMPRESSION.OJPEG, COMPRESSION.JPEG)


@dataclass(frozen=True, eq=False)
class Picture:
    """What a file holds.

    Attributes:
        values: The values as they are stored, channels first.
        indexed: Values are places in a table of colours.
        inverted: The highest value is black.
        alpha: The last channel is the opacity.
        bits: Bits of a value.
        lossy: Values were compressed with loss.
    """

    values: Shaped[np.ndarray, "channels *spatial"]
    indexed: bool = False
    inverted: bool = False
    alpha: bool = False
    bits: int = 8
    lossy: bool = False


def read_picture(path: Path, *, case_id: str) -> Picture:
    """Read a picture with the axes (rows, columns), or the pages of a TIFF with the axes (pages, rows, columns).

    Args:
        path: The file.
        case_id: The case, for errors.

    Returns:
        What the file holds; an opacity that is the same everywhere is left out.

    Raises:
        DataError: The opacity differs between places.
    """
    picture = _read_tiff(path) if path.suffix.lower() in TIFF else _read_by_pillow(path)
    if not picture.alpha:
        return picture
    opacity = picture.values[-1]
    if np.ptp(opacity) > 0:
        raise DataError.of(
            Fault(
                check="wrong_channels",
                expected="grey values or colours",
                found=f"an alpha channel with opacities from {opacity.min()} to {opacity.max()} too",
                remedy="save the picture without it, as the values below what is transparent are arbitrary",
                case_id=case_id,
                file=path,
            )
        )
    return replace(picture, values=picture.values[:-1], alpha=False)


def _read_by_pillow(path: Path) -> Picture:
    ending = path.suffix.lower()
    bits, grey = _depth_of_png(path) if ending == ".png" else (8, True)
    with _opened(path, [_FORMATS[ending]]) as image:
        if (frames := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"it is a film of {frames} frames: save each as a picture")
        values = _values(image, bits) if grey or bits == 8 else _by_itk(path, "PNGImageIO")
        greys = _greys_of_gif(image)
        values = values if greys is None else greys[values]
        return Picture(
            values=values[None] if values.ndim == 2 else np.moveaxis(values, -1, 0),
            indexed=greys is None and image.mode in ("P", "PA"),
            alpha=image.mode in ("LA", "PA", "RGBA"),
            bits=bits,
            lossy=ending in JPEG,
        )


def _greys_of_gif(image: Image.Image) -> Shaped[np.ndarray, "places"] | None:
    """The table of a GIF without colours, whose values are greys; None of any other picture."""
    if image.format != "GIF" or image.mode != "P":
        return None
    table = np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3)
    return table[:, 0] if (table == table[:, :1]).all() else None


@contextmanager
def _opened(path: Path, formats: list[str]) -> Iterator[Image.Image]:
    """A picture, without the warnings of Pillow about its size and its metadata."""
    with warnings.catch_warnings(action="ignore"), Image.open(path, formats=formats) as image:
        yield image


def _depth_of_png(path: Path) -> tuple[int, bool]:
    """Bits of a value, and whether it is grey or a place in a table; Pillow would cut colours of 16 bits to 8."""
    with path.open("rb") as stream:
        stream.seek(24)
        bits, kind = struct.unpack("BB", stream.read(2))
    return bits, kind in (0, 3)


def _values(image: Image.Image, bits: int) -> Shaped[np.ndarray, "..."]:
    """The values of a frame, channels last; Pillow spreads grey values of 2 and 4 bits over the range of 8."""
    if image.mode not in _MODES:
        raise ValueError(f"colours of the kind {image.mode} are not read: save the picture as grey or RGB")
    values = np.asarray(image)
    if values.dtype == bool:
        return values.astype(np.uint8)
    return values // np.uint8(255 // (2**bits - 1)) if image.mode == "L" and bits < 8 else values


def _by_itk(path: Path, kind: str) -> Shaped[np.ndarray, "..."]:
    """All values, channels last."""
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(kind)
    reader.SetFileName(str(path))
    return SimpleITK.GetArrayFromImage(reader.Execute())


def _read_tiff(path: Path) -> Picture:
    with tifffile.TiffFile(path) as file:
        _check_whole(file)
        if len(file.series) != 1:
            shapes = ", ".join(str(series.shape) for series in file.series[:5])
            raise ValueError(f"it holds {len(file.series)} images of different kinds ({shapes}): save each by itself")
        series = file.series[0]
        page = series.keyframe
        values = series.asarray() if _is_plain(page) else _by_libtiff(path, series).reshape(series.shape)
        return Picture(
            values=_channels_first(values, series.axes),
            indexed=page.photometric == PHOTOMETRIC.PALETTE,
            inverted=page.photometric == PHOTOMETRIC.MINISWHITE,
            alpha="S" in series.axes and _has_alpha(page),
            bits=page.bitspersample,
            lossy=page.compression in _LOSSY,
        )


def _check_whole(file: tifffile.TiffFile) -> None:
    """Refuse a file whose last page names a further one: it was cut, and what is left would pass for the whole."""
    if not len(file.pages):
        raise ValueError("no page can be found")
    tiff, stream = file.tiff, file.filehandle
    offset = file.pages[-1].offset
    stream.seek(offset)
    (tags,) = struct.unpack(tiff.tagnoformat, stream.read(tiff.tagnosize))
    stream.seek(offset + tiff.tagnosize + tags * tiff.tagsize)
    (following,) = struct.unpack(tiff.offsetformat, stream.read(tiff.offsetsize))
    if following:
        raise ValueError(f"{len(file.pages)} pages are there, and a further one cannot be found")


def _is_plain(page: Any) -> bool:
    return page.compression in _PLAIN and page.predictor in (1, 2) and page.bitspersample in (8, 16, 32, 64)


def _has_alpha(page: Any) -> bool:
    return bool(set(page.extrasamples) & {EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA})


def _by_libtiff(path: Path, series: Any) -> Shaped[np.ndarray, "..."]:
    """All pages, of any compression."""
    page = series.keyframe
    if page.samplesperpixel > 1 and page.bitspersample > 8:
        return _by_itk(path, "TIFFImageIO")
    frames = []
    with _opened(path, ["TIFF"]) as image:
        for one in series.pages:
            image.seek(one.index)
            frame = _values(image, page.bitspersample)
            # Pillow turns what is inverted round, up to 8 bits.
            if page.photometric == PHOTOMETRIC.MINISWHITE and page.bitspersample <= 8:
                frame = 2**page.bitspersample - 1 - frame
            frames.append(np.moveaxis(frame, -1, 0) if page.planarconfig == PLANARCONFIG.SEPARATE else frame)
    return np.stack(frames)


def _channels_first(values: Shaped[np.ndarray, "..."], axes: str) -> Shaped[np.ndarray, "..."]:
    """The values without axes of length 1; of the letters of the axes S means samples and C channels."""
    if len(set(axes)) < len(axes):
        raise ValueError(f"its axes {axes} of lengths {values.shape} cannot be told apart: save one image a file")
    long = [axis for axis, name in enumerate(axes) if name in "YX" or values.shape[axis] > 1]
    values = values.reshape([values.shape[axis] for axis in long])
    channels = [place for place, axis in enumerate(long) if axes[axis] in "SC"]
    if len(channels) > 1:
        raise ValueError(f"it has channels of colours (axes {axes}): save one channel a file")
    return np.moveaxis(values, channels[0], 0) if channels else values[None]
