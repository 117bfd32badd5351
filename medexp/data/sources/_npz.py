"""Arrays in .npz files: known by their headers, and read a row at a time without reading the others."""

from __future__ import annotations

import math
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Shaped

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.files import write_atomic
from medexp.core.hashing import hash_plain
from medexp.data.sources._file_faults import missing, unreadable

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    MemoryError,
    RuntimeError,  # of an encrypted file
    NotImplementedError,  # of an unknown compression
    zipfile.BadZipFile,
    zlib.error,
)
_CHUNK = 2**20
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Member:
    """An array of the file.

    Attributes:
        shape: Its shape.
        dtype: Type of its values.
        crc32: Checksum that the archive keeps of it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    crc32: int


class NpzFile:
    """Arrays of one file.

    An archive is compressed from its beginning to its end, so a row of it cannot be read by itself. An array whose rows
    are asked for is therefore unpacked once into a folder of the cache, whoever asks for them later.

    Args:
        path: The file.
        cache_dir: Folder for unpacked arrays.

    Attributes:
        members: The arrays by name.

    Raises:
        DataError: The file is missing, damaged, no .npz file, or holds something else than plain numbers.
    """

    def __init__(self, path: Path, *, cache_dir: Path) -> None:
        self.path = path
        self.cache_dir = cache_dir
        with self._opened() as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            self.members: Mapping[str, Member] = {name[: -len(".npy")]: _member(archive, name) for name in names}

    def array(self, name: str) -> Shaped[np.ndarray, "..."]:
        """A whole array, for small ones."""
        with self._opened() as archive, archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def row(self, name: str, index: int) -> Shaped[np.ndarray, "..."]:
        """A copy of one row of an array; DataError where it cannot be unpacked."""
        path = self._unpacked(name)
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
            if rows.shape != self.members[name].shape:
                raise ValueError(f"it has shape {rows.shape}")
            return np.array(rows[index])
        except _UNREADABLE as error:
            fault = Fault("unreadable", "to hold an unpacked array", f"an error ({error})", "delete it", file=path)
            raise DataError.of(fault) from error

    def _unpacked(self, name: str) -> Path:
        member = self.members[name]
        key = [self.path.name, name, member.shape, member.dtype.str, member.crc32]
        path = self.cache_dir / "unpacked" / f"{self.path.stem}-{name}-{hash_plain(key)[:12]}.npy"
        if path.exists():
            return path
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    with self._opened() as archive, archive.open(f"{name}.npy") as stream, _writing(path):
                        write_atomic(path, lambda target: shutil.copyfileobj(stream, target, _CHUNK))
        return path

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        """The archive; whatever is wrong with it while it is open is told as its fault."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except FileNotFoundError as error:
            raise DataError.of(missing(self.path)) from error
        except _UNREADABLE as error:
            raise DataError.of(unreadable(self.path, error, kind="an .npz file of plain numbers")) from error


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell an operating system's refusal to write as the cache's."""
    try:
        yield
    except OSError as error:
        remedy = "set paths.cache to a folder that is writable and has room"
        raise DataError.of(
            Fault("unwritable_cache", "to be written", f"an error ({error})", remedy, file=path)
        ) from error


def _member(archive: zipfile.ZipFile, name: str) -> Member:
    info = archive.getinfo(name)
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"arrays of version {version} are not read")
        shape, _, dtype = _HEADERS[version](stream)
        expected = stream.tell() + dtype.itemsize * math.prod(shape)
    if dtype.kind not in "buif":
        raise ValueError(f"its values are no plain numbers but of the type {dtype}")
    if expected != info.file_size:
        raise ValueError(f"{name} needs {expected} bytes, got {info.file_size}")
    return Member(shape, dtype, info.CRC)
