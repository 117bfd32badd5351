from __future__ import annotations

from pathlib import Path

import pytest

import medexp
from medexp.cli.main import main
from medexp.engine.run import Run

_TINY = (
    "dataset=phantom_3d", "dataset.source.n_cases=4", "dataset.source.shape=[20,18,16]",
    "dataset.patch_size=[16,16,16]", "dataset.batch_size=1", "dataset.split.n_folds=2", "dataset.workers=0",
    "model.channels=[2,4]", "model.strides=[2]", "model.num_res_units=0", "metrics=dice", "precision=32-true",
    "threads=1", "overlays=0", "trainer.max_steps=1", "tracking=off", "save_predictions=true", "study=s",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run on volumes, of one step."""
    folder = tmp_path_factory.mktemp("show")
    places = [f"paths.runs={folder / 'runs'}", f"paths.cache={folder / 'cache'}"]
    return medexp.train(medexp.compose(None, [*_TINY, *places]))


def _shown(capsys: pytest.CaptureFixture[str], *words: str) -> list[Path]:
    assert main(["show", *words]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def test_the_worst_case_is_drawn_beside_the_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    worst = run.cases.set_index("case_id").filter(like="dice/").mean(axis=1).idxmin()
    assert _shown(capsys, str(run.path)) == [run.path / "shown" / f"{worst}_contour.png"]


@pytest.mark.parametrize(("layout", "form"), [("montage", "png"), ("slice", "svg")])
def test_several_cases_in_a_layout_and_a_format(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, layout: str, form: str
) -> None:
    cases = sorted(run.cases["case_id"])
    named = [word for case in cases for word in ("--case", case)]
    words = ("--layout", layout, "--format", form, "--style", "fill", "--slices", "2")
    found = _shown(capsys, str(run.path), *named, *words, "-o", str(tmp_path))
    assert found == [tmp_path / f"{case}_fill.{form}" for case in cases]
    assert all(path.stat().st_size > 1000 for path in found)


def test_a_page_goes_to_the_file_that_is_named(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    assert _shown(capsys, str(run.path), "--format", "html", "-o", str(page)) == [page]
    assert "case_00" not in page.read_text()
    assert list(page.parent.iterdir()) == [page]


def test_what_is_computed_anew_is_told(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    training = next(f"case_000{i}" for i in range(4) if f"case_000{i}" not in set(run.cases["case_id"]))
    assert main(["show", str(run.path), "--case", training, "-o", str(tmp_path)]) == 0
    assert f"{training}: predicted anew from the run's checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--case", "case_00001"], "has no case case_00001; did you mean case_000"),
        (["--axis", "1"], "axis needs layout slice or montage"),
        (["--layout", "slice", "--index", "99"], "index needs a value from 0 to"),
        (["--channel", "1"], "channel needs a value from 0 to 0"),
        (["-o", "page.html"], "-o page.html does not end in .png; add --format html"),
        (["-o", "a.png", "--case", "case_0000", "--case", "case_0001"], "is one file, and 2 pictures are drawn"),
    ],
)
def test_wrong_use_is_told(run: Run, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["show", str(run.path), *words]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_a_run_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["show", str(tmp_path)]) == 1
    assert "holds no run record" in capsys.readouterr().err
