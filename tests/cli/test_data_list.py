from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medexp.cli.data_list import data_list, size_text
from medexp.data.catalogue.catalogue import cards, names


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    assert data_list(["--json", *words]) == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["datasets"]}


def test_the_table_has_a_line_for_each_dataset(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert data_list([]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(names()) <= set(lines)
    assert "CC-BY-NC-4.0 (nc)" in lines["dermamnist"]
    assert "~10,015" in lines["dermamnist"]
    assert lines["bccd"].split()[1:5] == ["detection", "2D", "364", "MIT"]
    assert "206 MB" in lines["pathmnist"]


def test_what_is_on_this_machine_is_told_with_its_path(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDEXP_DATA", str(tmp_path))
    assert not listed(capsys)["breastmnist"]["here"]
    (tmp_path / "medmnist").mkdir()
    (tmp_path / "medmnist/breastmnist.npz").touch()
    found = listed(capsys)
    assert found["breastmnist"]["here"]
    assert found["breastmnist"]["path"] == str(tmp_path / "medmnist")
    assert not found["pathmnist"]["here"]
    assert found["phantom_2d"]["here"]
    data_list([])
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("breastmnist")).rstrip().endswith(str(tmp_path / "medmnist"))
    here = set(listed(capsys, "--here"))
    assert "breastmnist" in here
    assert "pathmnist" not in here


def test_a_task_chooses(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(listed(capsys, "--task", "instance")) == {read.name for read in cards() if "instance" in read.tasks}


@pytest.mark.real_data
def test_the_real_sets_are_found(capsys: pytest.CaptureFixture[str], shared_data, monkeypatch) -> None:
    monkeypatch.setenv("MEDEXP_DATA", str(shared_data("bccd").parent))
    here = {name for name, entry in listed(capsys, "--here").items() if entry["fetch"]}
    assert {"bccd", "breastmnist", "msd_task04_hippocampus", "vgg_cells", "nih_chest_xray"} <= here
    assert {"dsb2018_fluorescence", "ctc_fluo_n2dh_sim"} <= here
    assert not {"pathmnist", "dsb2018", "msd_task09_spleen"} & here


def test_it_answers_at_once_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from medexp.cli.data_list import data_list; data_list([]);"
        "heavy = [name for name in ('torch', 'pandas', 'numpy', 'hydra') if name in sys.modules];"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 10  # under a second on a machine that is not busy


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (28_900_000_000, "28.9 GB")]
)
def test_sizes_are_told_in_a_unit_that_suits_them(size: int, text: str) -> None:
    assert size_text(size) == text
