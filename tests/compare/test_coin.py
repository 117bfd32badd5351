"""Agreement with R: the script beside this file computes the same statistics with coin, p.adjust and aov."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import friedmanchisquare

from medexp.compare.paired_tests import holm, permutation_p, wilcoxon_p
from medexp.compare.verdict import spread_of

N_CASES, N_SEEDS = 40, 3


@pytest.fixture(scope="module")
def of_r(tmp_path_factory: pytest.TempPathFactory) -> tuple[np.ndarray, dict[str, float]]:
    """Values of three methods by case and seed, and what R says of them."""
    rscript = shutil.which("Rscript")
    if rscript is None:
        pytest.skip("Rscript is not installed (Debian: apt-get install r-cran-coin)")
    random = np.random.default_rng(3)
    values = 0.8 + random.normal(size=(3, N_CASES, 1)) * 0.05 + random.normal(size=(3, N_CASES, N_SEEDS)) * 0.03
    values[1] += 0.012
    file = tmp_path_factory.mktemp("r") / "values.csv"
    cases, seeds = np.meshgrid(range(N_CASES), range(N_SEEDS), indexing="ij")
    columns = {name: own.ravel() for name, own in zip("abc", values, strict=True)}
    pd.DataFrame({"case": cases.ravel(), "seed": seeds.ravel(), **columns}).to_csv(file, index=False)
    words = [rscript, str(Path(__file__).with_name("coin.R")), str(file)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if "no package called" in ended.stderr:
        pytest.skip("R has no package coin (Debian: apt-get install r-cran-coin)")
    assert ended.returncode == 0, ended.stderr
    return values, {name: float(value) for name, value in (line.split("=") for line in ended.stdout.splitlines())}


def test_signed_ranks_agree_with_coin(of_r: tuple[np.ndarray, dict[str, float]]) -> None:
    values, told = of_r
    first, second = values[0].mean(axis=1), values[1].mean(axis=1)
    assert wilcoxon_p(first - second) == pytest.approx(told["wilcoxon_exact"], rel=1e-6)
    hundredths = np.round(100 * first) - np.round(100 * second)
    assert 0 in hundredths
    assert wilcoxon_p(hundredths) == pytest.approx(told["wilcoxon_with_ties"], rel=1e-6)


def test_sign_flips_agree_with_coin(of_r: tuple[np.ndarray, dict[str, float]]) -> None:
    values, told = of_r
    (p,) = permutation_p([(values[0] - values[1]).mean(axis=1)], resamples=100_000, seed=0)
    # Both are shares of 100,000 draws.
    assert p == pytest.approx(told["permutation"], abs=6 * np.sqrt(p * (1 - p) / 100_000))


def test_friedman_agrees_with_coin(of_r: tuple[np.ndarray, dict[str, float]]) -> None:
    values, told = of_r
    assert friedmanchisquare(*values.mean(axis=2)).pvalue == pytest.approx(told["friedman"], rel=1e-6)


def test_holm_agrees_with_p_adjust(of_r: tuple[np.ndarray, dict[str, float]]) -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([of_r[1][f"holm_{place}"] for place in (1, 2, 3)])


def test_both_parts_of_the_variance_agree_with_aov(of_r: tuple[np.ndarray, dict[str, float]]) -> None:
    values, told = of_r
    spread = spread_of(values[0] - values[1], np.arange(N_CASES))
    assert spread.v_groups * N_CASES * N_SEEDS == pytest.approx(told["ms_case"])
    assert spread.v_trainings * N_CASES * N_SEEDS == pytest.approx(told["ms_seed"])
