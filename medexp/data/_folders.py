"""Folders of a cache that are computed once, however many processes want them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medexp.core.errors import MedexpError
from medexp.core.hashing import hash_plain


class ComputedFolders:
    """Folders that are named by what they are computed from.

    A folder is filled under a temporary name and renamed when it is complete, so a killed process leaves no half one.
    It is filled under a lock, which the system releases when its holder dies, so no two processes do it twice.

    Args:
        root: Where the folders lie.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: Mapping[str, Any]) -> Path:
        """The folder of a key made of plain values, whether or not it is there."""
        name = hash_plain(key)
        return self.root / name[:2] / name[2:34]

    def make(self, folder: Path, fill: Callable[[Path], None], *, wait: bool = True) -> bool:
        """Compute a folder, unless it is there.

        Args:
            folder: One that `path` named.
            fill: Writes its files into the folder that it is given.
            wait: Wait for another process that is at it.

        Returns:
            Whether the folder is there; False where another process is at it.

        Raises:
            MedexpError: The cache cannot be written.
        """
        if folder.exists():
            return True
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
        # Eight letters behind the dot, as in temporary names: `medexp gc` removes what a killed process left.
        lock = FileLock(folder.with_name(f".{folder.name}.lockfile"), timeout=-1 if wait else 0)
        with writing(folder):
            try:
                lock.acquire()
            except Timeout:
                return False
        try:
            if not folder.exists():
                _fill(folder, fill)
        finally:
            # Whoever waits for the removed file gets it, and then finds the folder.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
        return True

    def discard(self, folder: Path) -> None:
        """Remove a folder that is damaged; processes that have its files open keep them."""
        hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        with suppress(FileNotFoundError):  # another process was faster
            folder.rename(hidden / folder.name)
        shutil.rmtree(hidden)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Tell an operating system's refusal to write as the cache's."""
    try:
        yield
    except OSError as error:
        raise MedexpError(
            f"the cache {folder} cannot be written ({error}); free space, or choose another folder with "
            "paths.cache=FOLDER"
        ) from error


def _fill(folder: Path, fill: Callable[[Path], None]) -> None:
    with writing(folder):
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        partial.chmod(0o755)  # mkdtemp's folder is closed to the other users of a shared cache
    try:
        fill(partial)
        with writing(folder):
            os.rename(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
