from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medexp.cli.data import data_command, subcommands
from medexp.cli.data_check import data_check
from medexp.core.errors import UsageError

_PROBE = """
import sys
from medexp.cli.data import data_command
from medexp.core.errors import MedexpError
try:
    code = data_command(sys.argv[1:])
except MedexpError as error:
    print(error, file=sys.stderr)
    code = error.exit_code
except SystemExit as stop:
    code = stop.code
heavy = [name for name in ("torch", "pytorch_lightning", "monai", "pandas") if name in sys.modules]
sys.exit(f"imported {heavy}" if heavy else code)
"""


@pytest.fixture
def dataset(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset of ten volumes in the Decathlon's layout."""
    monkeypatch.setenv("MEDEXP_CACHE", str(here / "cache"))
    root = here / "Task99 Täst"
    names = [f"toy_{number:02d}" for number in range(10)]
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        voxels = np.random.default_rng(number).normal(size=(16, 16, 16)).astype(np.float32)
        save(root / "imagesTr" / f"{name}.nii.gz", voxels)
        save(root / "labelsTr" / f"{name}.nii.gz", (voxels > 0).astype(np.uint8))
    pairs = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]
    content = {"name": "toy", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "organ"}, "training": pairs}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def save(path: Path, voxels: np.ndarray) -> None:
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def check(root: Path, *words: str) -> int:
    return data_check(["dataset=msd", f"dataset.root='{root}'", "dataset.patch_size=[16,16,16]", *words])


def spoil(root: Path) -> None:
    save(root / "imagesTr" / "toy_03.nii.gz", np.ones((16, 16, 16), np.float32))
    (root / "labelsTr" / "toy_05.nii.gz").unlink()


def test_a_sound_dataset_ends_with_0(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(dataset) == 0
    assert capsys.readouterr().out == "toy: 10 cases checked, 0 errors, 0 warnings\n"


def test_errors_end_with_1_and_are_all_printed_and_written(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(dataset)
    assert check(dataset, "--json", "out/report.json", "--html", "out/report.html") == 1
    told = capsys.readouterr().out
    for word in ("constant_image", "toy_03", "toy_05", "toy_05.nii.gz"):
        assert word in told
    report = json.loads(Path("out/report.json").read_text())
    assert {fault["case_id"] for fault in report["faults"]} == {"toy_03", "toy_05"}
    assert report["errors"] == 2
    assert "toy_05" in Path("out/report.html").read_text()


def test_a_second_check_reads_only_what_could_not_be_read(dataset: Path) -> None:
    spoil(dataset)
    counts = []
    for _ in range(2):
        check(dataset, "--json", "report.json")
        counts.append(json.loads(Path("report.json").read_text())["read"])
    assert counts == [10, 1]


def test_a_patch_that_the_network_cannot_halve_is_told_with_the_nearest(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(dataset, "dataset.patch_size=[16,12,10]", "model=unet") == 1
    assert "dataset.patch_size=[16,16,8]" in capsys.readouterr().out
    # Without an experiment and a model, nobody chose the network.
    assert check(dataset, "dataset.patch_size=[16,12,10]") == 0


def test_a_dataset_that_cannot_be_opened_is_a_report_too(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "dataset.json").unlink()
    assert check(dataset, "--json", "report.json", "--html", "report.html") == 1
    assert "dataset.json is missing" in capsys.readouterr().out
    (fault,) = json.loads(Path("report.json").read_text())["faults"]
    assert fault["check"] == "unlistable"
    assert "dataset.json is missing" in Path("report.html").read_text()


def test_an_experiment_names_the_dataset(dataset: Path, experiment: Callable[..., str]) -> None:
    path = experiment(
        "defaults: [{override /dataset: msd}]\n"
        f"dataset: {{root: '{dataset}', patch_size: [16, 16, 16], split: {{n_folds: 2}}}}\n"
    )
    assert data_check([path]) == 0
    assert data_check([path, "dataset.patch_size=[16,16,12]"]) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dataset=mds"], "did you mean msd"),
        (["dataset=msd"], r"dataset\.root"),
        (["one", "two"], "one experiment at a time"),
        (["fold=0,1"], "one dataset is checked"),
        (["seeed=1"], "no key seeed"),
    ],
)
def test_wrong_use_is_refused(here: Path, words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        data_check(words)


def test_the_checks_are_listed_with_their_levels(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_check(["--checks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["empty_label", "warning"] for line in lines)
    assert any(line.split()[:3] == ["unreadable", "error", "(fixed)"] for line in lines)


def test_help_lists_the_subcommands_that_are_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert data_command(["--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: medexp data")
    assert all(f"  {name} " in told for name in subcommands())
    assert "check" in subcommands()


def test_an_unknown_subcommand_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no command data chekc; did you mean check\? \(known: .*check"):
        data_command(["chekc"])


@pytest.mark.parametrize(
    ("words", "code"),
    [(["--help"], 0), (["check", "--help"], 0), (["check", "dataset=mds"], 2), (["check", "--no"], 2)],
)
def test_help_and_wrong_use_import_nothing_heavy(words: list[str], code: int, here: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROBE, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ},
    )
    assert done.returncode == code, done.stderr
    assert done.stdout.startswith("usage: medexp data") == (code == 0)


@pytest.mark.real_data
def test_the_real_hippocampus_set_has_no_error(
    shared_data: Callable[[str], Path], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDEXP_CACHE", str(here / "cache"))
    root = shared_data("msd_task04_hippocampus")
    assert data_check(["dataset=msd", f"dataset.root='{root}'", "--json", "report.json"]) == 0
    report = json.loads(Path("report.json").read_text())
    assert (report["cases"], report["read"], report["errors"]) == (260, 260, 0)
    assert {fault["check"] for fault in report["faults"]} == {"smaller_than_patch"}
