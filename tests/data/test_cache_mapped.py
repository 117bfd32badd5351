from __future__ import annotations

import mmap
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from medexp.data._mapped import announce


def in_page_cache(file: Path, first: int, length: int) -> bool:
    """Whether the bytes can be had without waiting for the disk."""
    handle = os.open(file, os.O_RDONLY)
    try:
        return os.preadv(handle, [bytearray(length)], first, os.RWF_NOWAIT) == length
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def dropped(file: Path) -> np.ndarray:
    """The mapped array of a file of which nothing is in the page cache."""
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(handle)
    if in_page_cache(file, 0, 4096):
        pytest.skip("this file system keeps its files in memory")
    return np.load(file, mmap_mode="r")


@pytest.mark.parametrize("view", ["whole", "channel", "added axis"])
def test_what_is_announced_is_fetched_and_nothing_far_from_it(tmp_path, view):
    file = tmp_path / "pixels.npy"
    volume = np.random.default_rng(0).normal(size=(2, 24, 200, 300)).astype(np.float32)
    np.save(file, volume)
    header = file.stat().st_size - volume.nbytes
    array = dropped(file)
    window = (slice(1, 2), slice(10, 14), slice(90, 110), slice(40, 90))
    shown = {
        "whole": (array, window),
        "channel": (array[1], window[1:]),
        "added axis": (array[1][None], (slice(0, 1), *window[1:])),
    }
    announce(*shown[view])
    places = [
        header + 4 * int(np.ravel_multi_index(at, volume.shape))
        for at in product([1], range(10, 14), (90, 109), (40, 89))
    ]
    give_up = time.monotonic() + 5
    while not all(in_page_cache(file, place, 4) for place in places) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert all(in_page_cache(file, place, 4) for place in places)
    far = header + 4 * int(np.ravel_multi_index((0, 2, 0, 0), volume.shape))
    assert not in_page_cache(file, far, 4)
    assert np.array_equal(array[window], volume[window])


def test_nothing_happens_to_arrays_that_are_not_mapped_or_not_asked_for(tmp_path):
    volume = np.arange(24.0).reshape(2, 3, 4)
    announce(volume, (slice(0, 1),) * 3)
    np.save(tmp_path / "volume.npy", volume)
    mapped = np.load(tmp_path / "volume.npy", mmap_mode="r")
    for window in ((slice(0, 2), slice(1, 1), slice(0, 4)), (slice(2, 2), slice(0, 3), slice(0, 4))):
        announce(mapped, window)
    announce(mapped.transpose(2, 1, 0), (slice(0, 4), slice(0, 3), slice(0, 2)))
    announce(mapped, (slice(0, 2), slice(0, 3), slice(0, 4)))
    assert np.array_equal(mapped, volume)
    assert isinstance(mapped.base, mmap.mmap)
