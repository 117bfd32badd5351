"""How fast patches come out of volumes on disk: memory-mapped npy, blosc2 and zarr; what is not installed is left out.

Each patch is cut from the image (float32) and the mask (uint8) of a random volume at a random place. "warm": all files
lie in the page cache; "cold": the files of the volume are dropped from it before each patch, and opened anew.
Neither blosc2 nor zarr is a dependency of medexp: `pip install blosc2 zarr` for this table, which stands in
docs/decisions/0006-prepared-cases-are-npy.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from medexp.core.hardware import available_cores, cpu_model
from medexp.data._mapped import announce

_LAYERS = ("pixels", "mask")
Window = tuple[slice, ...]


class Format(ABC):
    """A way to keep arrays on disk.

    Attributes:
        needs: The package that reads and writes it; None where numpy does.
    """

    needs: str | None = None

    @abstractmethod
    def write(self, path: Path, array: np.ndarray, patch: int) -> None:
        """Write an array of which cubes of `patch` voxels will be read."""

    @abstractmethod
    def open(self, path: Path) -> Any:
        """Something to cut windows from."""


class Npy(Format):
    """One file in the order of the array, mapped into memory."""

    def write(self, path: Path, array: np.ndarray, patch: int) -> None:
        with path.open("wb") as stream:
            np.save(stream, array)

    def open(self, path: Path) -> np.ndarray:
        found: np.ndarray = np.load(path, mmap_mode="r")
        return found


class Announced(Npy):
    """The same, and the system is told which rows of which planes will be read before they are."""

    def open(self, path: Path) -> Any:
        return _Announced(super().open(path))


class _Announced:
    """A mapped volume that announces a window before it cuts it."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __getitem__(self, window: Window) -> np.ndarray:
        announce(self.array, window)
        return self.array[window]


class Blosc2(Format):
    """Compressed chunks of the patch's size, mapped into memory and unpacked by one thread, as nnU-Net reads them."""

    needs = "blosc2"

    def __init__(self, codec: str, level: int) -> None:
        self.codec = codec
        self.level = level

    def write(self, path: Path, array: np.ndarray, patch: int) -> None:
        import blosc2

        blosc2.set_nthreads(1)
        blosc2.asarray(
            np.ascontiguousarray(array),
            chunks=(patch,) * array.ndim,
            blocks=(max(1, patch // 4),) * array.ndim,
            urlpath=str(path),
            cparams={"codec": blosc2.Codec[self.codec], "clevel": self.level},
        )

    def open(self, path: Path) -> Any:
        import blosc2

        blosc2.set_nthreads(1)
        return blosc2.open(urlpath=str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})


class Zarr(Format):
    """A folder of compressed chunks of half the patch's size."""

    needs = "zarr"

    def __init__(self, codec: str | None) -> None:
        self.codec = codec

    def write(self, path: Path, array: np.ndarray, patch: int) -> None:
        import zarr

        chunks = (max(1, patch // 2),) * array.ndim
        packed = None if self.codec is None else zarr.codecs.BloscCodec(cname=self.codec, clevel=1)
        stored = zarr.create_array(
            store=str(path), shape=array.shape, dtype=array.dtype, chunks=chunks, compressors=packed
        )
        stored[...] = array

    def open(self, path: Path) -> Any:
        import zarr

        return zarr.open_array(str(path), mode="r")


FORMATS: dict[str, Format] = {
    "npy, mapped": Npy(),
    "npy, mapped, window announced": Announced(),
    "blosc2, lz4 level 1": Blosc2("LZ4", 1),
    "blosc2, zstd level 8 (nnU-Net's)": Blosc2("ZSTD", 8),
    "zarr, not compressed": Zarr(None),
    "zarr, lz4": Zarr("lz4"),
    "zarr, zstd": Zarr("zstd"),
}


def volume(seed: int, size: int) -> dict[str, np.ndarray]:
    """A body of structures and noise in front of zeros, normalised, and a mask."""
    random = np.random.default_rng(seed)
    structure = gaussian_filter(random.normal(size=(size,) * 3).astype(np.float32), 4)
    place = np.indices((size,) * 3, dtype=np.float32) / size - 0.5
    body = np.square(place).sum(axis=0) < 0.2
    pixels = np.where(body, 10 * structure + random.normal(0, 0.3, size=body.shape), 0).astype(np.float32)
    return {"pixels": pixels, "mask": (body & (structure > structure.std())).astype(np.uint8)}


def files_of(path: Path) -> Iterator[Path]:
    """The files of a stored array, which may be a folder."""
    yield from (item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]


def drop_from_page_cache(path: Path) -> None:
    """Let the system forget what it has read of a stored array."""
    for file in files_of(path):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def draws(count: int, *, volumes: int, size: int, patch: int) -> Iterator[tuple[int, Window]]:
    """Random volumes and places, the same for each format."""
    random = np.random.default_rng(0)
    for _ in range(count):
        number, *start = random.integers([volumes] + [size - patch + 1] * 3, dtype=int)
        yield int(number), tuple(slice(int(first), int(first) + patch) for first in start)


def milliseconds(
    patches: Iterator[tuple[int, Window]],
    layers_of: Callable[[int], dict[str, Any]],
    before_each: Callable[[int], None] = lambda _: None,
) -> float:
    """Median time of a patch, which other work on the machine moves less than the mean."""
    spent = []
    for number, window in patches:
        before_each(number)
        begin = time.perf_counter()
        for layer in layers_of(number).values():
            np.array(layer[window])
        spent.append(time.perf_counter() - begin)
    return 1000 * statistics.median(spent)


def measure(chosen: Format, folder: Path, arguments: argparse.Namespace) -> tuple[float, ...]:
    """Milliseconds a patch (kept open, opened anew, cold), megabytes on disk, and milliseconds to write a volume."""
    n, size, patch = arguments.volumes, arguments.size, arguments.patch
    spent, made = 0.0, []
    for number in range(n):
        arrays = volume(number, size)
        start = time.perf_counter()
        for name in _LAYERS:
            chosen.write(folder / f"{number}_{name}", arrays[name], patch)
        spent += time.perf_counter() - start
        made.append(arrays)

    def opened(number: int) -> dict[str, Any]:
        return {name: chosen.open(folder / f"{number}_{name}") for name in _LAYERS}

    def drop(number: int) -> None:
        for name in _LAYERS:
            drop_from_page_cache(folder / f"{number}_{name}")

    def drawn(count: int) -> Iterator[tuple[int, Window]]:
        return draws(count, volumes=n, size=size, patch=patch)

    kept = [opened(number) for number in range(n)]
    for number, window in drawn(4 * n):
        assert all(np.array_equal(kept[number][name][window], made[number][name][window]) for name in _LAYERS)
    del made
    warm = milliseconds(drawn(arguments.patches), lambda number: kept[number])
    kept.clear()
    anew = milliseconds(drawn(arguments.patches), opened)
    cold = milliseconds(drawn(arguments.patches // 4), opened, before_each=drop)
    on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    return warm, anew, cold, on_disk, 1000 * spent / n


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=8)
    parser.add_argument("--size", type=int, default=160, help="voxels along each axis of a volume")
    parser.add_argument("--patch", type=int, default=64, help="voxels along each axis of a patch")
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--folder", type=Path, help="where the volumes are written; default: the system's for such")
    arguments = parser.parse_args()
    versions = [f"numpy {np.__version__}"]
    for package in ("blosc2", "zarr"):
        found = importlib.util.find_spec(package) is not None
        versions.append(f"{package} {importlib.import_module(package).__version__ if found else 'is not installed'}")
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {available_cores()} cores, {', '.join(versions)}")
    print(f"{arguments.volumes} volumes of {arguments.size}^3 (float32 and uint8), patches of {arguments.patch}^3\n")
    print("| Format | warm, kept open, ms a patch | warm, opened anew | cold | MB on disk | writing, ms a volume |")
    print("|---|---|---|---|---|---|")
    for name, chosen in FORMATS.items():
        if chosen.needs is not None and importlib.util.find_spec(chosen.needs) is None:
            print(f"| {name} | left out: {chosen.needs} is not installed | | | | |")
            continue
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            warm, anew, cold, on_disk, writing = measure(chosen, Path(folder), arguments)
        print(f"| {name} | {warm:.2f} | {anew:.2f} | {cold:.1f} | {on_disk:.0f} | {writing:.0f} |", flush=True)


if __name__ == "__main__":
    main()
