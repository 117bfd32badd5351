"""The image files of a folder by their names."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from medexp.data.sources._files import stem

# The folders below the one that was searched, and the name without its ending, in the form that most systems write.
Key = tuple[str, ...]


def named_files(folder: Path, *, recursive: bool, without: Iterable[Path] = ()) -> dict[Key, list[Path]]:
    """Visible files whose ending is read; several may have one name.

    Args:
        folder: Where to search; nothing is found where it is missing.
        recursive: Search the folders below too; those that are links are followed, each once.
        without: Folders that are passed over.

    Returns:
        The files of each name.
    """
    found: dict[Key, list[Path]] = defaultdict(list)
    seen = {identity for path in without if (identity := _identity(path)) is not None}
    for path, above in _walk(folder, (), seen, recursive=recursive):
        name = stem(path.name)
        if name:
            found[tuple(unicodedata.normalize("NFC", part) for part in (*above, name))].append(path)
    return {key: sorted(paths) for key, paths in found.items()}


def _walk(folder: Path, above: Key, seen: set[tuple[int, int]], *, recursive: bool) -> Iterator[tuple[Path, Key]]:
    """All visible files, each with the names of the folders above it; what cannot be opened is left out."""
    identity = _identity(folder)
    if identity is None or identity in seen:
        return
    seen.add(identity)
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if not _is_folder(entry):
            yield path, above
        elif recursive:
            yield from _walk(path, (*above, entry.name), seen, recursive=True)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads in a circle is taken for a file, so that reading it tells that it is missing."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from any other, whatever links lead to it; None where there is none."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
