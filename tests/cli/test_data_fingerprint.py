from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medexp.cli.data_fingerprint import data_fingerprint
from medexp.core.errors import DataError, UsageError

_SMALL = ["dataset=phantom_2d", "dataset.source.n_cases=6", "dataset.source.shape=[24,32]"]


def _run(here: Path, *words: str) -> int:
    return data_fingerprint([*_SMALL, f"paths.cache={here}/cache", *words])


def test_the_figures_are_printed_and_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(here, "--json", "out/f.json", "--html", "out/f.html") == 0
    printed = capsys.readouterr().out
    assert "6 cases in 2D" in printed
    assert "24 x 32" in printed
    assert {"organ", "lesion"} <= {line.split()[0] for line in printed.splitlines() if line.strip()}
    plain = json.loads(Path("out/f.json").read_text())
    assert (plain["cases"], plain["shape"]["median"], len(plain["by_case"])) == (6, [24.0, 32.0], 6)
    assert "data:image/png;base64," in Path("out/f.html").read_text()


def test_a_second_call_reads_no_image(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medexp.data.sources.phantom import Phantom

    _run(here)
    first = capsys.readouterr().out
    monkeypatch.delattr(Phantom, "read")
    monkeypatch.setattr(Phantom, "read", lambda self, case: pytest.fail("read"), raising=False)
    _run(here)
    assert capsys.readouterr().out == first


def test_an_experiment_names_the_dataset(experiment: Any, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = experiment(
        "defaults: [{override /dataset: phantom_3d}]\n"
        "dataset: {source: {n_cases: 2, shape: [16, 20, 18]}, preprocessing: {orient: true}}\n"
    )
    assert data_fingerprint([path, f"paths.cache={here}/cache"]) == 0
    assert "2 cases in 3D" in capsys.readouterr().out


def test_what_cannot_be_read_is_told_or_left_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run(here)
    for name in ("case_0001.npz", "case_0003.npz"):
        (file,) = (here / "cache").rglob(name)
        file.write_bytes(b"damaged")
    with pytest.raises(DataError) as told:
        _run(here)
    assert "case_0001" in str(told.value)
    assert "case_0003" in str(told.value)
    capsys.readouterr()
    assert _run(here, "dataset.integrity=quarantine") == 0
    assert "4 cases in 2D" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dataset=phantom"], "no such option"),
        (["seed=0,1"], "seed takes several values, and one configuration is asked for"),
        (["quickstart", "other"], "one experiment at a time, got quickstart, other"),
    ],
)
def test_words_that_describe_no_dataset_are_refused(words: list[str], told: str, here: Path) -> None:
    with pytest.raises(UsageError, match=told):
        data_fingerprint(words)


def test_help_imports_nothing_heavy(here: Path) -> None:
    code = "import sys; from medexp.cli.data_fingerprint import data_fingerprint\ntry: data_fingerprint(['--help'])\n"
    code += "except SystemExit: print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False False"
