"""Reading from files that are mapped into memory."""

from __future__ import annotations

import mmap
from itertools import product

import numpy as np

_WILL_NEED = getattr(mmap, "MADV_WILLNEED", None)


def announce(array: np.ndarray, window: tuple[slice, ...]) -> None:
    """Tell the system what will be read of a mapped array, so that it fetches it at once and not page by page.

    Where the file is not in the page cache a patch of a volume comes three times as fast
    (docs/decisions/0006-prepared-cases-are-npy.md). An array that is not mapped is left alone.

    Args:
        array: In the order of C; at least two axes.
        window: First and last voxel along each axis, inside the array.
    """
    mapped = _map_of(array)
    if mapped is None or _WILL_NEED is None or not array.flags.c_contiguous or not array[window].size:
        return
    first_byte = array.ctypes.data - np.frombuffer(mapped, dtype=np.uint8).ctypes.data
    *planes, rows, columns = window
    row_bytes, value_bytes = array.strides[-2:]
    length = (rows.stop - rows.start - 1) * row_bytes + (columns.stop - columns.start) * value_bytes
    corner = first_byte + rows.start * row_bytes + columns.start * value_bytes
    for index in product(*(range(axis.start, axis.stop) for axis in planes)):
        begin = corner + sum(i * stride for i, stride in zip(index, array.strides, strict=False))
        page = begin - begin % mmap.PAGESIZE
        mapped.madvise(_WILL_NEED, page, begin - page + length)


def _map_of(array: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array is a view of."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
