from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content as pip lays it out."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def _sources(folder: str, pattern: str) -> set[str]:
    return {
        path.relative_to(REPOSITORY).as_posix()
        for path in (REPOSITORY / folder).rglob(pattern)
        if "__pycache__" not in path.parts
    }


def _run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "MEDEXP_CACHE": str(Path.cwd() / "cache")}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=200, check=False, env=environment
    )


def test_the_wheel_holds_all_modules_options_and_experiments_and_no_tests(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = {f"medexp/{name}" for name in _sources("conf", "*.yaml") | _sources("experiments", "*.yaml")}
    plugins = _sources("hydra_plugins", "*.py")
    templates = _sources("medexp", "*.j2") | _sources("medexp", "*.css") | _sources("medexp", "*.js")
    assert _sources("medexp", "*.py") | templates | shipped | plugins <= inside
    assert {name.split("/")[0].split("-")[0] for name in inside} <= {"medexp", "hydra_plugins"}


def test_an_experiment_with_a_loss_of_ones_own_runs_from_an_empty_folder(
    installed: Path, own_loss: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = own_loss.parents[1] / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    where = _run(installed, "-c", "import medexp; print(medexp.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(installed)
    done = _run(installed, "-m", "medexp.cli.main", "train", "../project/own.yaml", "loss.alpha=0.5")
    assert done.returncode == 0, done.stderr
    record = json.loads((empty / "runs" / "own" / "loss.alpha=0.5" / "run.json").read_text())
    assert record["status"] == "finished"
    assert sorted(path.name for path in empty.iterdir()) == ["cache", "runs"]


def test_a_shipped_experiment_is_found_by_name_in_the_wheel(installed: Path, here: Path) -> None:
    done = _run(installed, "-m", "medexp.cli.main", "train", "quickstart", "--info", "searchpath")
    assert done.returncode == 0, done.stderr
    assert str(installed / "medexp" / "conf") in done.stdout
    assert str(REPOSITORY / "conf") not in done.stdout
