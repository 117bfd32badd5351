"""Unpacking archives of strangers: only plain files, only inside the folder, no more than was agreed."""

from __future__ import annotations

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from medexp.core.errors import DataError, MedexpError

# Medical images shrink to a tenth at most; a bomb to a thousandth.
_MAX_RATIO = 50
_MIN_LIMIT_BYTES = 2**28
_RUBBISH = re.compile(r"(^|/)(__MACOSX|\.DS_Store$|\._[^/]*$)")
_ABSOLUTE = re.compile(r"^([/\\]|[A-Za-z]:)")
_ZIP_ENCRYPTED = 0x1
# A RuntimeError is what zipfile raises where it lacks a password or a method of compression.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


@dataclass(frozen=True)
class Member:
    """A member of an archive.

    Attributes:
        name: Path as the archive has it.
        kind: "file", "folder", or what it is instead.
        size: Bytes that it says it has.
        open: Opens the content of a file.
    """

    name: str
    kind: str
    size: int
    open: Callable[[], Any] = field(repr=False)


def unpack(archive: Path, folder: Path, *, kind: str, strip: str = "", max_bytes: int | None = None) -> int:
    """Unpack the files of an archive.

    Args:
        archive: The file.
        folder: Where they go; files that are there are not overwritten.
        kind: "zip" or "tar"; a tar file may be compressed.
        strip: Folder inside the archive whose content is taken; empty for all of it.
        max_bytes: Largest size of all files together; None takes 50 times the archive's.

    Returns:
        How many files there were.

    Raises:
        DataError: The archive is damaged, or has a member that is a link or a device, lies outside the folder, comes
            twice, or is too large.
        MedexpError: The disk has no room for the files.
    """
    limit = max(_MAX_RATIO * archive.stat().st_size, _MIN_LIMIT_BYTES) if max_bytes is None else max_bytes
    number, size = 0, 0
    try:
        for member in _READERS[kind](archive):
            target = _target(member, folder, strip, archive)
            size += member.size
            if size > limit:
                raise _refused(archive, member.name, f"files of at most {limit:,} bytes together", "more")
            if target is None:
                continue
            _write(member, target, archive)
            number += 1
    except _DAMAGE as error:
        raise DataError(f"{archive} is no whole {kind} archive ({error}); fetch it again") from error
    if not number:
        raise DataError(f"{archive} needs files{f' in {strip}' if strip else ''}, got none; its owner has changed it")
    return number


def _target(member: Member, folder: Path, strip: str, archive: Path) -> Path | None:
    """Where a file goes; None for what is not wanted."""
    if member.kind not in ("file", "folder"):
        raise _refused(archive, member.name, "plain files", member.kind)
    parts = PurePosixPath(member.name.replace("\\", "/")).parts
    if _ABSOLUTE.match(member.name) or ".." in parts or "\0" in member.name:
        raise _refused(archive, member.name, "paths inside the folder", "one that leaves it")
    prefix = PurePosixPath(strip).parts
    if member.kind == "folder" or _RUBBISH.search("/".join(parts)) or parts[: len(prefix)] != prefix:
        return None
    return folder.joinpath(*parts[len(prefix) :])


def _write(member: Member, target: Path, archive: Path) -> None:
    free = shutil.disk_usage(archive.parent).free
    if member.size > free:
        raise MedexpError(f"{archive.parent} has no room for {member.name} ({member.size:,} bytes, {free:,} are free)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = target.open("xb")
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise _refused(archive, member.name, "each path once", "it twice") from error
    with stream, member.open() as content:
        left = member.size
        while block := content.read(min(left + 1, 2**20)):
            left -= len(block)
            if left < 0:
                raise _refused(archive, member.name, f"the {member.size:,} bytes that it declares", "more")
            stream.write(block)
    if left:
        raise _refused(archive, member.name, f"the {member.size:,} bytes that it declares", f"{left:,} fewer")


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            yield Member(info.filename, _zip_kind(info), info.file_size, partial(opened.open, info))


def _zip_kind(info: zipfile.ZipInfo) -> str:
    mode = info.external_attr >> 16
    if info.flag_bits & _ZIP_ENCRYPTED:
        return "an encrypted file"
    if info.is_dir():
        return "folder"
    # Archives that were not written on Unix have no type of file.
    return "file" if stat.S_IFMT(mode) in (0, stat.S_IFREG) else "a link or a device"


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive, "r:*") as opened:
        for info in opened:
            yield Member(info.name, _tar_kind(info), info.size, partial(opened.extractfile, info))


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isdir():
        return "folder"
    # The holes of a sparse file cost nothing in the archive.
    return "file" if info.isreg() and not info.issparse() else "a link, a device or a sparse file"


def _refused(archive: Path, name: str, expected: str, found: str) -> DataError:
    return DataError(f"{archive} needs {expected}, got {found} ({name!r}); do not unpack it, and tell its owner")


_READERS: Mapping[str, Callable[[Path], Iterator[Member]]] = MappingProxyType(
    {"zip": _zip_members, "tar": _tar_members}
)
