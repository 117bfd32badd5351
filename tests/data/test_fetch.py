from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from medexp.core.errors import DataError, MedexpError
from medexp.data._unpack import unpack
from medexp.data.catalogue.catalogue import Card, Citation, Counts, Download, read_card
from medexp.data.fetch import fetch

CONTENT = np.random.default_rng(0).bytes(700_000)


@dataclass
class Site:
    """A server on this machine whose connections break when they are told to."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    knows_parts: bool = True
    version: str | None = '"1"'
    breaks_after: list[int] = field(default_factory=list)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        name, site = self.path.split("?")[0].removeprefix("/"), self.site
        wanted = self.headers.get("Range")
        site.asked.append((name, wanted))
        if name not in site.files:
            self.send_error(404)
            return
        whole = site.files[name]
        start = 0
        if wanted and site.knows_parts and self.headers.get("If-Range") in (None, site.version):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(whole):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        if site.version is not None:
            self.send_header("ETag", site.version)
        self.end_headers()
        body = whole[start:]
        self.wfile.write(body[: site.breaks_after.pop(0)] if site.breaks_after else body)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site}))
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    server.shutdown()
    server.server_close()
    thread.join()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


def card(*files: Download, contains: tuple[str, ...] = ("images",), folder: str = "toy") -> Card:
    return Card(
        name="toy",
        title="Toy",
        tasks=("semantic",),
        spatial_dims=2,
        licence="CC0-1.0",
        non_commercial=False,
        citation=Citation("Nobody, 2020."),
        homepage=None,
        channels=("intensity",),
        classes={1: "organ"},
        counts=Counts({"all": 1}, "drawn", True),
        folder=folder,
        contains=contains,
        files=files,
    )


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(*members: tuple[str | tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def offered(site: Site, content: bytes = CONTENT, *, checksum: str | None = "right", name: str = "toy.npz") -> Card:
    """A dataset that is one file, which the site has."""
    site.files[name] = content
    checksum = md5(content) if checksum == "right" else checksum
    return card(Download(site.url(f"{name}?download=1"), checksum), contains=(name,))


def test_a_file_is_downloaded_once(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    assert fetch(wanted, tmp_path) == tmp_path / "toy"
    assert (tmp_path / "toy/toy.npz").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    fetch(wanted, tmp_path)
    assert len(site.asked) == 1


def test_datasets_of_a_file_each_share_a_folder(site: Site, tmp_path: Path) -> None:
    fetch(offered(site), tmp_path)
    fetch(offered(site, b"other", name="other.npz"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["other.npz", "toy.npz"]


def test_a_broken_connection_is_gone_on_with(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    site.breaks_after = [300_000]
    told: list[tuple[int, int | None]] = []
    fetch(wanted, tmp_path, progress=lambda name: lambda done, total: told.append((done, total)))
    assert (tmp_path / "toy/toy.npz").read_bytes() == CONTENT
    assert [part for _, part in site.asked] == [None, "bytes=300000-"]
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_later_call_goes_on_where_an_earlier_one_stopped(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    site.breaks_after = [300_000, 0, 0, 0]
    with pytest.raises(DataError, match="what was received is kept in"):
        fetch(wanted, tmp_path)
    assert not (tmp_path / "toy").exists()
    assert (tmp_path / ".downloads/toy/toy.npz.part").stat().st_size == 300_000
    fetch(wanted, tmp_path)
    assert site.asked[-1] == ("toy.npz", "bytes=300000-")
    assert (tmp_path / "toy/toy.npz").read_bytes() == CONTENT


@pytest.mark.parametrize(("knows_parts", "later_version"), [(False, '"1"'), (True, '"2"'), (True, None)])
def test_a_server_without_parts_or_with_another_version_gives_the_whole_file(
    site: Site, tmp_path: Path, knows_parts: bool, later_version: str | None
) -> None:
    site.knows_parts = knows_parts
    wanted = offered(site)
    site.breaks_after = [300_000, 0, 0, 0]
    with pytest.raises(DataError):
        fetch(wanted, tmp_path)
    site.version = later_version
    fetch(wanted, tmp_path)
    assert (tmp_path / "toy/toy.npz").read_bytes() == CONTENT


def test_parts_of_an_unknown_version_are_not_joined(site: Site, tmp_path: Path) -> None:
    site.version = None
    wanted = offered(site, checksum=None)
    site.breaks_after = [300_000]
    fetch(wanted, tmp_path)
    assert [part for _, part in site.asked] == [None, None]
    assert (tmp_path / "toy/toy.npz").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_received_again(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    downloads = tmp_path / ".downloads/toy"
    downloads.mkdir(parents=True)
    (downloads / "toy.npz.part").write_bytes(CONTENT + b"more")
    (downloads / "toy.npz.part.version").write_text('"\\"1\\""')
    fetch(wanted, tmp_path)
    assert [part is None for _, part in site.asked] == [False, True]
    assert (tmp_path / "toy/toy.npz").read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_of_it_kept(site: Site, tmp_path: Path) -> None:
    wanted = offered(site, checksum=md5(b"what the owner wrote"))
    with pytest.raises(DataError, match=r"toy\.npz.* needs the checksum md5:"):
        fetch(wanted, tmp_path)
    assert not (tmp_path / "toy").exists()
    assert not list((tmp_path / ".downloads/toy").iterdir())


def test_a_file_that_is_there_and_not_the_owners_is_left_alone(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/toy.npz").write_bytes(b"re-saved")
    with pytest.raises(DataError, match="another edition"):
        fetch(wanted, tmp_path)
    assert (tmp_path / "toy/toy.npz").read_bytes() == b"re-saved"
    assert not site.asked


def test_a_missing_file_and_a_silent_server_are_told(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gives no file \(404"):
        fetch(card(Download(site.url("gone.npz")), contains=("gone.npz",)), tmp_path)
    with pytest.raises(DataError, match="the connection to"):
        fetch(card(Download("http://127.0.0.1:9/x.npz"), contains=("x.npz",)), tmp_path)


def test_archives_are_unpacked_into_their_folders(site: Site, tmp_path: Path) -> None:
    site.files["a.zip"] = zipped(("A-1/in/1.png", b"1"), ("A-1/README", b"r"), ("__MACOSX/A-1/in/._1.png", b"x"))
    site.files["b.tar"] = tarred(("B/1.png", b"mask"), ("B/._1.png", b"x"), mode="w")
    wanted = card(
        Download(site.url("a.zip"), unpack="zip", strip="A-1/in", into="images"),
        Download(site.url("b.tar"), md5(site.files["b.tar"]), unpack="tar", strip="B", into="masks"),
        contains=("images", "masks"),
    )
    fetch(wanted, tmp_path)
    found = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert found == {"toy/images/1.png": b"1", "toy/masks/1.png": b"mask"}
    assert stat.S_IMODE((tmp_path / "toy").stat().st_mode) == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]


def test_an_archive_that_was_received_is_not_received_again(site: Site, tmp_path: Path) -> None:
    content = zipped(("images/1.png", b"1"))
    site.files["a.zip"], site.files["b.zip"] = content, b""
    wanted = card(
        Download(site.url("a.zip"), md5(content), unpack="zip"), Download(site.url("c.zip"), unpack="zip", into="more")
    )
    with pytest.raises(DataError, match=r"c\.zip gives no file"):
        fetch(wanted, tmp_path)
    site.files["c.zip"] = zipped(("2.png", b"2"))
    fetch(wanted, tmp_path)
    assert [name for name, _ in site.asked] == ["a.zip", "c.zip", "c.zip"]


def test_a_login_page_is_no_archive_and_not_kept(site: Site, tmp_path: Path) -> None:
    site.files["a.zip"] = b"<html>please log in</html>"
    wanted = card(Download(site.url("a.zip"), unpack="zip"))
    with pytest.raises(DataError, match="no whole zip archive"):
        fetch(wanted, tmp_path)
    site.files["a.zip"] = zipped(("images/1.png", b"1"))
    fetch(wanted, tmp_path)
    assert (tmp_path / "toy/images/1.png").is_file()


def test_files_that_lack_what_the_card_promises_are_not_put_in_place(site: Site, tmp_path: Path) -> None:
    site.files["a.zip"] = zipped(("1.png", b"1"))
    with pytest.raises(DataError, match="need to have images"):
        fetch(card(Download(site.url("a.zip"), unpack="zip")), tmp_path)
    assert not (tmp_path / "toy").exists()


def test_what_lies_in_the_place_is_not_mixed_with(site: Site, tmp_path: Path) -> None:
    (tmp_path / "toy/other").mkdir(parents=True)
    with pytest.raises(DataError, match="images are not all in it; move it away"):
        fetch(card(Download(site.url("a.zip"), unpack="zip")), tmp_path)
    assert not site.asked


def test_a_folder_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(MedexpError, match=r"file.* cannot be written .*--to"):
        fetch(wanted, tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_told(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    (tmp_path / ".downloads/toy").mkdir(parents=True)
    (tmp_path / ".downloads/toy/toy.npz.part").symlink_to("/dev/full")
    with pytest.raises(MedexpError, match="No space left on device"):
        fetch(wanted, tmp_path)
    assert not (tmp_path / "toy").exists()


def test_a_file_for_which_there_is_no_room_is_not_begun(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)

    class Endless(bytes):
        def __len__(self) -> int:
            return 2**62

    site.files["toy.npz"] = Endless(b"")
    with pytest.raises(MedexpError, match="needs room for 4,611,686,018,427,387,904 bytes"):
        fetch(wanted, tmp_path)


def test_two_processes_do_not_fetch_the_same(site: Site, tmp_path: Path) -> None:
    wanted = offered(site)
    (tmp_path / ".downloads").mkdir()
    held = "import filelock, sys; l = filelock.FileLock(sys.argv[1]); l.acquire(); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path / ".downloads/toy.lock")], stdin=-1, stdout=-1, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(MedexpError, match="another process fetches toy"):
            fetch(wanted, tmp_path)
        other.communicate("\n")
    fetch(wanted, tmp_path)
    assert (tmp_path / "toy/toy.npz").is_file()


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HOSTILE = {
    "zip: parent": ("zip", zipped(("images/../../evil", b"x")), "one that leaves it"),
    "zip: absolute": ("zip", zipped(("/tmp/evil", b"x")), "one that leaves it"),
    "zip: drive": ("zip", zipped(("C:/evil", b"x")), "one that leaves it"),
    "zip: backslashes": ("zip", zipped(("..\\..\\evil", b"x")), "one that leaves it"),
    "zip: link": ("zip", zipped((zip_link("evil"), b"/etc/passwd")), "a link or a device"),
    "zip: twice": ("zip", zipped(("a\\1.png", b"1"), ("a/1.png", b"2")), "it twice"),
    "tar: parent": ("tar", tarred(("../evil", b"x")), "one that leaves it"),
    "tar: absolute": ("tar", tarred(("/tmp/evil", b"x")), "one that leaves it"),
    "tar: symbolic link": ("tar", tarred((link("evil", "/etc", tarfile.SYMTYPE), b"")), "a link, a device"),
    "tar: hard link": ("tar", tarred((link("evil", "/etc/passwd", tarfile.LNKTYPE), b"")), "a link, a device"),
    "tar: device": ("tar", tarred((link("evil", "", tarfile.CHRTYPE), b"")), "a link, a device"),
    "tar: pipe": ("tar", tarred((link("evil", "", tarfile.FIFOTYPE), b"")), "a link, a device"),
    "tar: twice": ("tar", tarred(("1.png", b"1"), ("1.png", b"2")), "it twice"),
    "tar: file as folder": ("tar", tarred(("1.png", b"1"), ("1.png/2", b"2")), "it twice"),
    "empty zip": ("zip", zipped(), "got none"),
    "damaged tar": ("tar", tarred(("1.png", CONTENT))[:-5000], "no whole tar archive"),
    "damaged zip": ("zip", zipped(("1.png", CONTENT)).replace(CONTENT[1000:1020], bytes(20)), "no whole zip archive"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_archive_is_refused(name: str, tmp_path: Path) -> None:
    kind, content, reason = HOSTILE[name]
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    folder = tmp_path / "deep/er/folder"
    with pytest.raises(DataError, match=reason):
        unpack(archive, folder, kind=kind)
    outside = [path for path in tmp_path.rglob("*") if "evil" in path.name]
    assert not outside
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize(("kind", "pack"), [("zip", zipped), ("tar", tarred)])
def test_an_archive_that_swells_is_refused_before_it_fills_the_disk(
    kind: str, pack: Callable[..., bytes], tmp_path: Path
) -> None:
    archive = tmp_path / "bomb"
    archive.write_bytes(pack(("1.bin", bytes(2_000_000)), ("2.bin", bytes(2_000_000))))
    with pytest.raises(DataError, match="at most 3,000,000 bytes together"):
        unpack(archive, tmp_path / "out", kind=kind, max_bytes=3_000_000)
    assert sum(path.stat().st_size for path in (tmp_path / "out").iterdir()) <= 3_000_000
    assert unpack(archive, tmp_path / "all", kind=kind, max_bytes=4_000_000) == 2


def test_a_member_that_is_larger_than_it_declares_is_refused(tmp_path: Path) -> None:
    content = zipped(("1.bin", bytes(1000)))
    lied = content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert lied != content
    (tmp_path / "lie.zip").write_bytes(lied)
    with pytest.raises(DataError):
        unpack(tmp_path / "lie.zip", tmp_path / "out", kind="zip")
    assert (tmp_path / "out/1.bin").stat().st_size <= 10


def test_a_half_unpacked_dataset_is_never_found_in_its_place(site: Site, tmp_path: Path) -> None:
    content = tarred(("images/1.png", b"1"), ("../evil", b"x"))
    site.files["a.tar.gz"] = content
    with pytest.raises(DataError, match="one that leaves it"):
        fetch(card(Download(site.url("a.tar.gz"), md5(content), unpack="tar")), tmp_path)
    assert not (tmp_path / "toy").exists()
    assert not list(tmp_path.rglob("1.png"))


def test_a_lock_file_of_a_dead_process_does_not_block(site: Site, tmp_path: Path) -> None:
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads/toy.lock").touch()
    fetch(offered(site), tmp_path)
    assert (tmp_path / "toy/toy.npz").is_file()
    with FileLock(tmp_path / "free.lock", timeout=0) as lock:
        assert lock.is_locked
    assert os.listdir(tmp_path / "toy") == ["toy.npz"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from medexp.data.catalogue.catalogue import read_card
from medexp.data.fetch import fetch

def progress(name):
    def tell(done, total):
        if done >= int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    return tell

fetch(read_card(Path(sys.argv[1])), Path(sys.argv[2]), progress=progress)
"""


def test_a_killed_process_leaves_no_half_dataset_and_the_next_goes_on(site: Site, tmp_path: Path) -> None:
    site.files["toy.npz"] = CONTENT
    text = (
        "{title: Toy, tasks: [semantic], spatial_dims: 2, licence: CC0-1.0, non_commercial: false, homepage: null, "
        "citation: {text: Nobody}, channels: [grey], classes: {1: organ}, folder: toy, contains: [toy.npz], "
        f"counts: {{cases: {{all: 1}}, source: drawn, verified: true}}, files: [{{url: '{site.url('toy.npz')}'}}]}}"
    )
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    home = tmp_path / "home"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path), str(home), "400000"], check=False)
    assert killed.returncode == -9
    assert not (home / "toy").exists()
    fetch(read_card(path), home)
    assert (home / "toy/toy.npz").read_bytes() == CONTENT
    first = site.asked[-1][1]
    assert first is not None
    assert 0 < int(first.removeprefix("bytes=").rstrip("-")) <= 400_000 + 2**18


def test_what_a_killed_process_unpacked_is_removed(site: Site, tmp_path: Path) -> None:
    stale = tmp_path / ".downloads/toy/unpacked.abcdefgh"
    stale.mkdir(parents=True)
    site.files["a.zip"] = zipped(("images/1.png", b"1"))
    fetch(card(Download(site.url("a.zip"), unpack="zip")), tmp_path)
    assert not stale.exists()
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["images"]
