"""The learning rate that a rising one suggests."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

import medexp
from medexp.cli.main import main
from medexp.core.errors import MedexpError, UsageError
from medexp.engine.lr_find import find_learning_rate, smoothed_curve

_RATES = [10 ** (-5 + 5 * step / 99) for step in range(100)]


def test_the_suggestion_is_the_steepest_point_of_a_known_curve() -> None:
    # A logistic fall around 1e-3 and a rise from 1e-1 on; the fall is steepest at its middle.
    decades = np.log10(_RATES)
    loss = 1 / (1 + np.exp(4 * (decades + 3))) + np.maximum(0, decades + 1)
    noise = 0.01 * np.random.default_rng(0).standard_normal(100)
    curve = smoothed_curve(_RATES, list(loss + noise))
    assert curve.suggestion is not None
    assert abs(math.log10(curve.suggestion) + 3) < 0.2
    assert curve.slope[curve.steepest or 0] == pytest.approx(-1.0, abs=0.15)
    assert -2 < math.log10(curve.lr[curve.lowest]) < -0.8


def test_the_smoothed_line_of_a_straight_loss_is_the_loss_and_its_slope_is_per_decade() -> None:
    loss = [3.0 - 0.5 * math.log10(rate) for rate in _RATES]
    curve = smoothed_curve(_RATES, loss)
    np.testing.assert_allclose(curve.smoothed, loss)
    np.testing.assert_allclose(curve.slope, -0.5)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    assert smoothed_curve(_RATES, [float(step) for step in range(100)]).suggestion is None


def test_too_few_steps_are_an_error() -> None:
    with pytest.raises(MedexpError, match="after 3 steps"):
        smoothed_curve(_RATES[:3], [1.0, 2.0, 3.0])


def test_the_command_writes_table_and_plot_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tiny(tmp_path / "runs", "trainer.accumulate=2", "optimizer=sgd_nesterov", "optimizer.momentum=0.9")
    code = main(["lr-find", *words, "--steps", "20", "--smallest", "1e-4", "--largest", "0.1", "-o", "found"])
    assert code == 0
    told = capsys.readouterr().out
    found = json.loads((tmp_path / "found" / "lr_find.json").read_text())
    assert {item.name for item in (tmp_path / "found").iterdir()} == {"lr_find.json", "lr_find.png"}
    assert {item.name for item in tmp_path.iterdir()} == {"found", "cache"}
    assert found["lr"] == pytest.approx([1e-4 * 1000 ** (step / 19) for step in range(20)])
    assert f"optimizer.lr={found['suggestion']:.2g}" in told
    again = find_learning_rate(medexp.compose(None, words), steps=20, smallest=1e-4, largest=0.1)
    assert list(again.loss) == found["loss"]


def test_it_stops_where_the_loss_has_diverged(tmp_path: Path) -> None:
    words = tiny(tmp_path / "runs", "optimizer=sgd", "trainer.gradient_clip_norm=null", "loss=cross_entropy")
    curve = find_learning_rate(medexp.compose(None, words), steps=40, smallest=1e-3, largest=1e6)
    assert 5 <= len(curve.lr) < 40


@pytest.mark.parametrize("task", ["retinanet"])
def test_it_works_on_other_tasks(task: str, tmp_path: Path) -> None:
    words = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "threads=1", "precision=32-true"]
    config = medexp.compose(f"tour/{task}", words)
    config.dataset.batch_size, config.dataset.source.n_cases = 2, 8
    curve = find_learning_rate(config, steps=20, smallest=1e-6, largest=1e-2)
    assert len(curve.loss) == 20
    assert all(map(math.isfinite, curve.loss))


@pytest.mark.parametrize("numbers", [(5, 1e-5, 1.0), (20, 0.0, 1.0), (20, 1.0, 0.1)])
def test_numbers_that_are_no_range_are_refused(numbers: tuple[int, float, float], tmp_path: Path) -> None:
    steps, smallest, largest = numbers
    with pytest.raises(UsageError, match="a range needs"):
        find_learning_rate(medexp.compose(None, []), steps=steps, smallest=smallest, largest=largest)
