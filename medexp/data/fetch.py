"""Fetching a named dataset: download, compare checksums, unpack safely, and put it in its place in one step."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from medexp.core.errors import DataError, MedexpError
from medexp.data._download import Progress, ResumingDownloader
from medexp.data._unpack import unpack
from medexp.data.catalogue.catalogue import Card, Download

_DOWNLOADS = ".downloads"
_PARTIAL = "unpacked."


def fetch(card: Card, home: Path, *, progress: Callable[[str], Progress] | None = None) -> Path:
    """Bring a dataset to its place.

    Nothing is downloaded that is there already. What was received of a file is kept in a hidden folder until the whole
    dataset is in its place, so that the same call goes on where an earlier one stopped; a dataset that is not whole is
    never found in its place.

    Args:
        card: The dataset, whose card has files.
        home: Folder of the datasets.
        progress: Makes what is told how far a file is, by its name; None tells nothing.

    Returns:
        The dataset's folder.

    Raises:
        DataError: The files cannot be had, are not what the card says, or something else lies in the place.
        MedexpError: The folder cannot be written, or another process fetches the dataset.
    """
    place = card.place(home)
    if place is None or not card.files:
        raise ValueError(f"the card of {card.name} has no files to fetch")
    if not card.missing(home):
        _compare_with_owner(card, place)
        return place
    downloads = home / _DOWNLOADS / card.name
    with _writing(home):
        downloads.mkdir(parents=True, exist_ok=True)
        with _alone(downloads):
            if not card.missing(home):  # another process was faster
                return place
            _check_place(card, place)
            archives = [(file, _download(file, downloads, progress)) for file in card.files]
            _put(card, archives, place, downloads)
            shutil.rmtree(downloads)
    return place


def _download(file: Download, folder: Path, progress: Callable[[str], Progress] | None) -> Path:
    """The file in the folder, received unless it is there and whole."""
    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    target = folder / file.file_name
    told = (lambda done, total: None) if progress is None else progress(file.file_name)
    downloader = ResumingDownloader(folder / f"{file.file_name}.part", told)
    try:
        pooch.retrieve(file.url, file.checksum, fname=file.file_name, path=folder, downloader=downloader)
    except ValueError as error:  # pooch's, whose message names a temporary file
        raise DataError(
            f"{file.url} needs the checksum {file.checksum}, got another; it was damaged on its way or its owner has "
            "changed it; what was received is removed, try again"
        ) from error
    return target


def _put(card: Card, archives: list[tuple[Download, Path]], place: Path, downloads: Path) -> None:
    """Unpack beside the place and rename, so that no half dataset is ever found there."""
    for stale in downloads.glob(f"{_PARTIAL}*"):  # of a process that was killed
        shutil.rmtree(stale)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=downloads))
    try:
        for file, archive in archives:
            _unpack(file, archive, partial / file.into)
        missing = [path for path in card.contains if not (partial / path).exists()]
        if missing:
            raise DataError(
                f"the files of {card.name} need to have {', '.join(missing)}, which they do not; their owner has "
                "changed them"
            )
        if _is_archive(card):
            partial.chmod(0o755)  # mkdtemp's folder is closed to other users
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(place)
            return
        place.mkdir(parents=True, exist_ok=True)  # shared with other datasets that are a file each
        for path in partial.iterdir():
            path.replace(place / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unpack(file: Download, archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if file.unpack is None:
        archive.replace(folder / file.file_name)
        return
    try:
        unpack(archive, folder, kind=file.unpack, strip=file.strip)
    except DataError:
        archive.unlink()  # without a checksum, it would be taken for whole next time
        raise


def _is_archive(card: Card) -> bool:
    return any(file.unpack is not None for file in card.files)


def _check_place(card: Card, place: Path) -> None:
    """Refuse to mix with what lies in the place; single files may lie beside others."""
    mixes = _is_archive(card) and place.is_dir() and any(place.iterdir())
    if mixes or (place.exists() and not place.is_dir()):
        raise DataError(
            f"{place} is there, but {', '.join(card.contains)} are not all in it; move it away, or name another folder "
            "with --to"
        )


def _compare_with_owner(card: Card, place: Path) -> None:
    """Tell where a single file that is there is not the one that its owner offers."""
    for file in card.files:
        if file.unpack is not None or file.checksum is None:
            continue
        import pooch

        method, _, expected = file.checksum.partition(":")
        found = pooch.file_hash(str(place / file.file_name), alg=method)
        if found != expected:
            raise DataError(
                f"{place / file.file_name} is there and needs the checksum {file.checksum}, got {method}:{found}; it "
                "is damaged or another edition; use it as it is, or remove it and fetch it again"
            )


@contextmanager
def _alone(downloads: Path) -> Iterator[None]:
    """Let no other process fetch the same dataset at the same time."""
    lock = FileLock(downloads.with_name(f"{downloads.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise MedexpError(f"another process fetches {downloads.name}; wait for it") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # others are in it
            downloads.parent.rmdir()


@contextmanager
def _writing(home: Path) -> Iterator[None]:
    """Tell an operating system's refusal to write as that of the folder of datasets."""
    try:
        yield
    except OSError as error:
        raise MedexpError(
            f"{home} cannot be written ({error}); make room, or choose another folder with --to or MEDEXP_DATA"
        ) from error
