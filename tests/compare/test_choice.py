"""Each method at the value that its validations chose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from made_up_rows import dice_rows

from medexp.cli.main import main
from medexp.core.record import RunFolder

WriteRun = Callable[..., RunFolder]


@pytest.fixture
def searched(write_run: WriteRun) -> Callable[..., None]:
    """Writes two losses with two rates each; what validates best is not what reports best."""

    def write(part: str = "test", *, validated: bool = True) -> None:
        val = {("first", "0.1"): 0.5, ("first", "0.01"): 0.6, ("second", "0.1"): 0.7, ("second", "0.01"): 0.4}
        reported = {("first", "0.1"): 0.9, ("first", "0.01"): 0.6, ("second", "0.1"): 0.7, ("second", "0.01"): 0.8}
        for (loss, rate), value in reported.items():
            for seed in range(3):
                rows = dice_rows([value + 0.01 * case + 0.001 * seed * (case % 3) for case in range(6)])
                folder = write_run(
                    rows,
                    loss=loss,
                    seed=seed,
                    axes={"optimizer.lr": rate},
                    config={"optimizer.lr": float(rate)},
                    record={"part": part},
                )
                if validated:
                    scores = {"epoch": [0, 1], "step": [5, 10], "val/dice/mean": [0.9, val[loss, rate] + 0.001 * seed]}
                    pd.DataFrame(scores).to_csv(folder.history, index=False)

    return write


def _compare(tmp_path: Path, *words: str) -> list[str]:
    command = ["compare", "study", "--by", "loss", "--choose", "optimizer.lr", "--runs", str(tmp_path / "runs")]
    return [*command, "--resamples", "200", *words]


def test_each_method_is_compared_at_the_value_of_its_best_last_validations(
    searched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched()
    assert main(_compare(tmp_path, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    used = {(Path(run["folder"]).name, run["method"]) for run in found["runs"]}
    assert used == {
        *((f"fold=0,loss=first,optimizer.lr=0.01,seed={seed}", "first") for seed in range(3)),
        *((f"fold=0,loss=second,optimizer.lr=0.1,seed={seed}", "second") for seed in range(3)),
    }
    assert found["notes"][0].startswith("first: optimizer.lr=0.01 was chosen by validation scores among 6 runs")
    assert not [finding for finding in found["fairness"]["findings"] if finding["level"] != "note"]


def test_a_choice_on_the_cases_that_are_reported_is_warned_of(
    searched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched("val")
    assert main(_compare(tmp_path)) == 0
    assert (
        "warning: choice: optimizer.lr was chosen on the validation cases that results are" in capsys.readouterr().out
    )


def test_unequal_budgets_of_the_search_are_refused(
    searched: Callable[..., None], write_run: WriteRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched()
    folder = write_run(
        dice_rows([0.5] * 6),
        loss="second",
        axes={"optimizer.lr": "1.0"},
        config={"optimizer.lr": 1.0},
        record={"part": "test"},
    )
    pd.DataFrame({"epoch": [0], "step": [5], "val/dice/mean": [0.1]}).to_csv(folder.history, index=False)
    assert main(_compare(tmp_path)) == 2
    assert "searched with unequal budgets (runs: first 6, second 7)" in capsys.readouterr().err
    assert main(_compare(tmp_path, "--force")) == 0


def test_without_validations_nothing_can_be_chosen(
    searched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched(validated=False)
    assert main(_compare(tmp_path)) == 2
    assert "has no validation score of dice; train with trainer.validate_every_epochs" in capsys.readouterr().err


def test_what_was_not_searched_for_is_told(
    searched: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched()
    words = _compare(tmp_path)
    words[words.index("optimizer.lr")] = "optimizer.momentum"
    assert main(words) == 2
    assert "do not differ in it" in capsys.readouterr().err
