from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from medexp.cli.data_fetch import data_fetch
from medexp.core.errors import DataError, UsageError

CONTENT = bytes(range(256)) * 1000
CARD = """
title: Toy cells
tasks: [classification]
spatial_dims: 2
licence: {licence}
non_commercial: {non_commercial}
citation:
  text: Nobody, 2020.
homepage: https://example.org
channels: [intensity]
classes:
  1: cell
counts:
  cases: {{all: 1}}
  source: drawn
  verified: true
folder: toy
contains: [toy.npz]
files:
  - url: {url}/toy.npz
    checksum: {checksum}
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def offer(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a card whose file a server on this machine has; MEDEXP_DATA is an empty folder."""
    monkeypatch.setenv("MEDEXP_DATA", str(here / "data"))
    (here / "site").mkdir()
    (here / "site/toy.npz").write_bytes(CONTENT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(here / "site")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def write(*, non_commercial: bool = False, checksum: str = f"md5:{hashlib.md5(CONTENT).hexdigest()}") -> str:
        text = CARD.format(
            licence="CC-BY-NC-4.0" if non_commercial else "CC0-1.0",
            non_commercial=str(non_commercial).lower(),
            url=f"http://127.0.0.1:{server.server_port}",
            checksum=checksum,
        )
        (here / "mine.yaml").write_text(text)
        return "mine.yaml"

    yield write
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_dataset_is_fetched_and_told_how_to_use(
    offer: Callable[..., str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_fetch([offer()]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == f"mine is in {here / 'data/toy'}; use it with dataset=mine"
    assert "Licence: CC0-1.0" in err
    assert "Cite: Nobody, 2020." in err
    assert "toy.npz: 256 kB of 256 kB" in err
    assert (here / "data/toy/toy.npz").read_bytes() == CONTENT
    (here / "site/toy.npz").unlink()
    assert data_fetch([offer()]) == 0
    assert "Licence" not in capsys.readouterr().err


def test_it_goes_to_another_folder_when_told(
    offer: Callable[..., str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_fetch([offer(), "--to", "else where"]) == 0
    assert (here / "else where/toy/toy.npz").is_file()
    assert "dataset.root=else where/toy" in capsys.readouterr().out


def test_terms_that_exclude_commercial_use_need_consent(offer: Callable[..., str], here: Path) -> None:
    name = offer(non_commercial=True)
    with pytest.raises(UsageError, match=r"CC-BY-NC-4\.0 .*add --yes if you accept this") as caught:
        data_fetch([name])
    assert caught.value.exit_code == 2
    assert not (here / "data").exists()
    assert data_fetch([name, "--yes"]) == 0
    assert data_fetch([name]) == 0


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2), ("no\n", 2)])
def test_somebody_at_a_terminal_is_asked(offer: Callable[..., str], here: Path, answer: str, code: int) -> None:
    name = offer(non_commercial=True)
    leader, follower = pty.openpty()
    program = (
        "import sys; from medexp.cli.data_fetch import data_fetch; from medexp.core.errors import MedexpError\n"
        "try: sys.exit(data_fetch(sys.argv[1:]))\n"
        "except MedexpError as error: print(error); sys.exit(error.exit_code)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, name], stdin=follower, stderr=follower, stdout=subprocess.PIPE
    ) as running:
        os.close(follower)
        os.write(leader, answer.encode())
        shown = b""
        while b"accept this" not in shown:
            shown += os.read(leader, 4096)
        running.communicate()
    os.close(leader)
    assert running.returncode == code
    assert (here / "data/toy/toy.npz").is_file() == (code == 0)


def test_a_damaged_file_is_told(offer: Callable[..., str], here: Path) -> None:
    with pytest.raises(DataError, match="needs the checksum md5:0"):
        data_fetch([offer(checksum=f"md5:{'0' * 32}")])
    assert not (here / "data/toy").exists()


def test_a_file_without_a_known_checksum_is_said_to_have_none(
    offer: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_fetch([offer(checksum="null")]) == 0
    assert "No checksum is known of toy.npz" in capsys.readouterr().err


def test_a_dataset_by_hand_says_where_and_how(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDEXP_DATA", str(here))
    with pytest.raises(UsageError) as caught:
        data_fetch(["nih_chest_xray"])
    assert caught.value.exit_code == 2
    for part in ("https://nihcc.app.box.com/v/ChestXray-NIHCC", str(here / "nih_chest_xray"), "train_val_list.txt"):
        assert part in str(caught.value)


def test_a_dataset_by_hand_that_is_there_is_found(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEDEXP_DATA", str(here))
    (here / "drive/training").mkdir(parents=True)
    assert data_fetch(["drive"]) == 0
    assert f"drive is in {here / 'drive'}" in capsys.readouterr().out


def test_nothing_is_fetched_of_a_dataset_that_is_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_fetch(["phantom_2d"]) == 0
    assert "nothing to fetch" in capsys.readouterr().out


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean vgg_cells"):
        data_fetch(["vgg_cell"])


@pytest.mark.real_data
def test_a_real_set_that_is_there_is_not_fetched(
    shared_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = shared_data("bccd").parent
    monkeypatch.setenv("MEDEXP_DATA", str(home))
    before = sorted(home.iterdir())
    assert data_fetch(["bccd"]) == 0
    with pytest.raises(DataError, match="another edition"):
        data_fetch(["breastmnist"])  # re-saved, so it is not its owner's file
    assert sorted(home.iterdir()) == before
