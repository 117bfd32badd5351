from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from made_up_rows import dice_rows

from medexp.cli.main import main
from medexp.compare.sheets import Sheet, as_latex, as_markdown, latex

WriteStudy = Callable[..., None]


@pytest.fixture
def compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["compare", *words, "--runs", str(tmp_path / "runs"), "--resamples", "200"])
        return (code, *capsys.readouterr())

    return run


def test_the_verdict_is_told_and_files_are_written(
    dice_study: WriteStudy, compare: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    dice_study(0.05)
    code, out, _ = compare("study", "--by", "loss", "--baseline", "first")
    assert code == 0
    assert "2 methods by loss: 6 finished runs, 0 not finished, 0 collapsed" in out
    assert "- second is better than first: +0.0" in out
    folder = tmp_path / "runs" / "study" / "comparison"
    assert {file.name for file in folder.iterdir()} == {
        "comparison.csv",
        "pairs.csv",
        "cases.csv",
        "comparison.md",
        "comparison.tex",
        "report.html",
    }
    assert pd.read_csv(folder / "pairs.csv")["answer"].tolist() == ["better"]
    assert len(pd.read_csv(folder / "cases.csv")) == 2 * 3 * 20
    page = (folder / "comparison.md").read_text()
    assert "medexp compare study --by loss --baseline first" in page
    assert r"\toprule" in (folder / "comparison.tex").read_text()


def test_a_second_comparison_does_not_take_the_first_for_a_run(
    dice_study: WriteStudy, compare: Callable[..., tuple[int, str, str]]
) -> None:
    dice_study(0.0)
    assert compare("study")[1] == compare("study")[1]


def test_a_forced_comparison_says_so_everywhere(
    dice_study: WriteStudy,
    write_run: Callable[..., object],
    compare: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
) -> None:
    dice_study(0.05)
    write_run(dice_rows([0.5] * 20, prefix="f0"), loss="third", record={"precision": "bf16-mixed"})
    code, _, err = compare("study")
    assert code == 2
    assert "precision: 32-true in" in err
    out = tmp_path / "out"
    code, told, _ = compare("study", "--force", "--out", str(out))
    assert code == 0
    assert "UNFAIR, and forced" in told
    for file in ("comparison.md", "comparison.tex"):
        assert "it was forced" in (out / file).read_text()


def test_the_report_can_be_left_out(
    dice_study: WriteStudy, compare: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    dice_study(0.0)
    assert "report.html" not in compare("study", "--no-report")[1]
    assert not (tmp_path / "runs" / "study" / "comparison" / "report.html").exists()


def test_json_holds_everything_and_nothing_else_is_printed(
    dice_study: WriteStudy, compare: Callable[..., tuple[int, str, str]]
) -> None:
    dice_study(0.05)
    found = json.loads(compare("study", "--json")[1])
    assert found["pairs"][0]["verdict"]["answer"] == "worse"
    assert found["methods"][0]["axes"] == {"loss": "first"}


def test_many_methods_are_a_matrix(
    write_run: Callable[..., object], compare: Callable[..., tuple[int, str, str]]
) -> None:
    for place in range(7):
        write_run(dice_rows([0.5, 0.6 + place / 100, 0.7]), loss=f"loss{place}")
    out = compare("study")[1]
    assert "row against column" in out
    assert out.count("one training of each") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "no study nowhere"),
        (("study", "--baseline", "thrid"), "did you mean third"),
        (("study", "--metric", "dice,,hd95"), "a list needs a name between its commas"),
        (("study", "--alpha", "7"), "--alpha needs a value above 0"),
    ],
)
def test_wrong_use_is_told(
    words: tuple[str, ...],
    message: str,
    write_run: Callable[..., object],
    compare: Callable[..., tuple[int, str, str]],
) -> None:
    for loss in ("second", "third"):
        write_run(dice_rows([0.5, 0.6]), loss=loss)
    code, _, err = compare(*words)
    assert (code, message in err) == (2, True)


def test_latex_and_markdown_escape_what_they_would_read_themselves() -> None:
    sheet = Sheet("t", ("a|b", "50 %"), (("dice_ce", "x & y"),), frozenset({(0, 1)}))
    assert "| a\\|b | 50 % |" in as_markdown(sheet)
    assert "**x & y**" in as_markdown(sheet)
    text = as_latex(sheet, "100 %", "name")
    assert r"dice\_ce & \textbf{x \& y} \\" in text
    assert r"\caption{100 \%}" in text
    assert latex("{~^}") == r"\{\textasciitilde{}\textasciicircum{}\}"
