"""The 256 colours of a GIF: which, and which of them each pixel of a picture has."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.spatial import KDTree

TINT = 0.25
GREYS = 48
# One colour is left to what is transparent.
_MOST = 255
# Of the colours that are left for each track: how many shades its area has, and its trail half faded and nearly so.
_OF_AREAS, _OF_TRAILS = 0.75, ((0.6, 0.125), (0.4, 0.125))


def colour_table(colours: Iterable[tuple[int, int, int]]) -> UInt8[np.ndarray, "colours rgb"]:
    """The greys, colours and tints that frames are made of, and some colours of fading trails.

    Args:
        colours: Those of the tracks.

    Returns:
        At most 255.
    """
    own = np.array(sorted(set(colours)), dtype=np.float64).reshape(-1, 3)
    rows = [np.repeat(_levels(GREYS)[:, None], 3, axis=1), own]
    shades = [(TINT, tints(len(own))), *((opacity, int(part * _room(len(own)))) for opacity, part in _OF_TRAILS)]
    for opacity, count in shades:
        rows += [opacity * colour + (1 - opacity) * _levels(count)[:, None] for colour in own]
    return np.round(np.concatenate(rows)).astype(np.uint8)


def tints(colours: int) -> int:
    """How many shades the area of a track has where there are so many colours of tracks."""
    return max(1, int(_OF_AREAS * _room(colours)))


def nearest_level(grey: UInt8[np.ndarray, "*pixels"], count: int) -> Float[np.ndarray, "*pixels"]:
    """The nearest of so many greys from black to white."""
    levels: np.ndarray = _levels(count)[np.round(grey / 255 * (count - 1)).astype(np.int64)]
    return levels


class ColourTable:
    """Turns pictures into places in a table of colours, the nearest ones; Pillow's own way may take another.

    Args:
        table: The colours.
    """

    def __init__(self, table: UInt8[np.ndarray, "colours rgb"]) -> None:
        self._table = table
        self._tree = KDTree(table)
        # By colour as a number of 24 bits, as far as they have been met.
        self._places = np.zeros(2**24, dtype=np.uint8)
        self._met = np.zeros(2**24, dtype=bool)

    def indexed(self, picture: Image.Image) -> Image.Image:
        """A picture in the colours of the table.

        Args:
            picture: In RGB.

        Returns:
            A picture with the table as its palette.
        """
        rgb = np.asarray(picture).astype(np.uint32)
        keys = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        new = np.unique(keys[~self._met[keys]])
        colours = np.stack([new >> 16, new >> 8 & 255, new & 255], axis=1)
        self._places[new] = self._tree.query(colours)[1]
        self._met[new] = True
        indexed = Image.fromarray(self._places[keys])
        indexed.putpalette(self._table.reshape(-1).tolist())
        return indexed


def _room(colours: int) -> int:
    """How many shades there may be of each colour."""
    return (_MOST - GREYS) // max(1, colours) - 1


def _levels(count: int) -> Float[np.ndarray, "levels"]:
    return np.round(np.linspace(0, 255, count))
