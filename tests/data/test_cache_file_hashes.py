from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from medexp.data import _file_hashes
from medexp.data._file_hashes import FileHashes

processes = multiprocessing.get_context("fork")


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, as those of a dataset do."""
    monkeypatch.setattr(_file_hashes, "_SETTLED_NS", -(10**9))


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """Files that were read to be hashed."""
    read: list[Path] = []

    def hash_file(path: Path) -> str:
        read.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(_file_hashes, "hash_file", hash_file)
    return read


def files(folder: Path, count: int = 3) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number}.nii" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(number.to_bytes(2) * 500)
    return paths


def truth(paths: list[Path]) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.usefixtures("settled")
def test_a_second_start_reads_no_file(tmp_path, reads):
    paths = files(tmp_path / "data", 1203)  # more than are asked for at once
    for expected in (len(paths), 0):
        reads.clear()
        assert FileHashes(tmp_path / "cache" / "hashes.sqlite").of(paths) == truth(paths)
        assert len(reads) == expected


@pytest.mark.usefixtures("settled")
def test_a_file_is_known_by_its_absolute_path_and_asked_for_once(tmp_path, reads, monkeypatch):
    path, *_ = files(tmp_path / "data")
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    assert hashes.of([path, path]) == truth([path])
    monkeypatch.chdir(tmp_path / "data")
    assert hashes.of([Path(path.name)]) == truth([Path(path.name)])
    assert reads == [path]


def overwritten(path: Path) -> None:
    path.write_bytes(b"x" * 1000)


def overwritten_with_its_old_time(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"x" * 1000)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced_with_its_old_time(path: Path) -> None:
    status = path.stat()
    other = path.with_suffix(".other")
    other.write_bytes(b"x" * 1000)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def longer(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"x")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", [overwritten, overwritten_with_its_old_time, replaced_with_its_old_time, longer])
def test_a_changed_file_is_read_again(tmp_path, reads, change):
    paths = files(tmp_path / "data")
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    hashes.of(paths)
    reads.clear()
    change(paths[1])
    assert hashes.of(paths) == truth(paths)
    assert reads == [paths[1]]


def test_a_file_that_changed_a_moment_ago_is_not_remembered(tmp_path, reads):
    paths = files(tmp_path / "data")
    os.utime(paths[0], (0, 0))  # its content is old, but it was touched now
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    for _ in range(2):
        reads.clear()
        assert hashes.of(paths) == truth(paths)
        assert len(reads) == 3


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path, monkeypatch):
    path, *_ = files(tmp_path / "data")

    def hash_and_change(file: Path) -> str:
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        longer(file)
        return found

    monkeypatch.setattr(_file_hashes, "hash_file", hash_and_change)
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    first, second = hashes.of([path])[path], hashes.of([path])[path]
    assert first != second


@pytest.mark.usefixtures("settled")
def test_what_is_remembered_is_trusted_until_the_user_distrusts_it(tmp_path, monkeypatch):
    paths = files(tmp_path / "data")
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    hashes.of(paths)
    with closing(sqlite3.connect(tmp_path / "hashes.sqlite")) as database, database:
        database.execute("UPDATE files SET sha256 = 'wrong'")
    assert set(hashes.of(paths).values()) == {"wrong"}
    monkeypatch.setenv(_file_hashes.REHASH, "0")
    assert set(hashes.of(paths).values()) == {"wrong"}
    monkeypatch.setenv(_file_hashes.REHASH, "1")
    assert hashes.of(paths) == truth(paths)
    monkeypatch.delenv(_file_hashes.REHASH)
    assert hashes.of(paths) == truth(paths)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"no database at all, but long enough to be taken for one" * 20, b""])
def test_a_damaged_database_is_begun_anew(tmp_path, reads, content):
    paths = files(tmp_path / "data")
    hashes = FileHashes(tmp_path / "hashes.sqlite")
    hashes.of(paths)
    hashes.file.write_bytes(content)
    for _ in range(2):
        assert hashes.of(paths) == truth(paths)
    reads.clear()
    assert hashes.of(paths) == truth(paths)
    assert reads == []


@pytest.mark.usefixtures("settled")
def test_a_database_that_cannot_be_written_costs_time_and_nothing_else(tmp_path):
    paths = files(tmp_path / "data")
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert FileHashes(tmp_path / "cache" / "hashes.sqlite").of(paths) == truth(paths)
    (tmp_path / "hashes.sqlite").mkdir()
    assert FileHashes(tmp_path / "hashes.sqlite").of(paths) == truth(paths)


@pytest.mark.usefixtures("settled")
def test_processes_share_the_database(tmp_path, reads):
    paths = files(tmp_path / "data", 300)
    file, expected = tmp_path / "hashes.sqlite", truth(paths)

    def check(part: list[Path]) -> None:
        good = all(FileHashes(file).of([path])[path] == expected[path] for path in part)
        os._exit(0 if good else 1)

    # Each process works on half of what the next one does.
    started = [processes.Process(target=check, args=(paths[50 * n : 50 * n + 100],)) for n in range(5)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0] * 5
    assert FileHashes(file).of(paths) == expected
    assert reads == []


def test_a_file_that_is_not_there_is_an_error_of_the_system(tmp_path):
    shutil.rmtree(tmp_path / "data", ignore_errors=True)
    with pytest.raises(FileNotFoundError):
        FileHashes(tmp_path / "hashes.sqlite").of([tmp_path / "data" / "0.nii"])
