from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_rows import auroc_rows, dice_rows
from sklearn.metrics import roc_auc_score

from medexp.compare.compare import Choices, compare_runs
from medexp.compare.comparison import Comparison
from medexp.compare.runs import read_runs
from medexp.compare.strata import read_factors
from medexp.core.errors import UsageError
from medexp.core.record import RunFolder

WriteRun = Callable[..., RunFolder]


def _compare(tmp_path: Path, factors: dict[str, dict[str, str]]) -> Comparison:
    return compare_runs(read_runs(["study"], tmp_path / "runs"), Choices(factors=factors, by=("loss",), resamples=200))


def _table(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "cases.csv"
    file.write_text(text)
    return file


def test_numbers_are_cut_into_thirds_and_words_stand_for_themselves(tmp_path: Path) -> None:
    lines = [f"{i:03d},{i},{'AB'[i % 2]}" for i in range(9)]
    factors = read_factors(_table(tmp_path, "\n".join(["case_id,size,scanner", *lines, "009,,A"])))
    assert list(factors["size"].values()) == [*["0 to 2.66667"] * 3, *["2.66667 to 5.33333"] * 3, *["5.33333 to 8"] * 3]
    assert factors["scanner"]["001"] == "B"
    assert "009" not in factors["size"]


def test_sizes_come_from_the_fingerprint_of_the_dataset(tmp_path: Path) -> None:
    file = tmp_path / "fingerprint.json"
    cases = [
        {"case_id": f"c{i}", "classes": {"lesion": {"volume_mm3": 10.0 * i, "objects": 1}} if i else {}}
        for i in range(6)
    ]
    file.write_text(json.dumps({"by_case": cases}))
    factors = read_factors(file)
    assert set(factors) == {"lesion volume_mm3", "lesion objects"}
    assert factors["lesion volume_mm3"]["c0"] == factors["lesion volume_mm3"]["c1"] == "0 to 16.6667"
    assert factors["lesion objects"]["c0"] == "0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,size\na,1\n", "needs a column case_id"),
        ("case_id\na\n", "and one for each factor"),
        ("case_id,size\na,1\na,2\n", "names case a twice"),
        ("case_id,name\n" + "\n".join(f"c{i},n{i}" for i in range(20)), "has 20 levels, 12 at most"),
    ],
)
def test_a_table_that_says_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_factors(_table(tmp_path, text))
    with pytest.raises(UsageError, match="cannot be read"):
        read_factors(tmp_path / "absent.csv")


def test_each_part_has_the_mean_of_its_cases(write_run: WriteRun, tmp_path: Path) -> None:
    values = np.linspace(0.1, 0.8, 8)
    for loss in ("first", "second"):
        for seed in range(2):
            write_run(dice_rows(values), loss=loss, seed=seed)
    factors = {"scanner": {f"c_{i:03d}": "AB"[i // 4] for i in range(7)}}
    parts = {(part.level, part.method): part for part in _compare(tmp_path, factors).strata if part.label == "mean"}
    assert parts[("A", "first")].value == pytest.approx(values[:4].mean())
    assert (parts[("B", "second")].value, parts[("B", "second")].n_cases) == (pytest.approx(values[4:7].mean()), 3)
    assert parts[("A", "first")].low < parts[("A", "first")].value < parts[("A", "first")].high


def test_an_area_is_that_of_the_part_alone(write_run: WriteRun, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truths = np.arange(20) % 2 == 0
    scores: dict[str, Any] = {}
    for loss in ("first", "second"):
        scores[loss] = random.normal(size=20) + truths
        write_run(auroc_rows(truths, scores[loss]), loss=loss)
    found = _compare(tmp_path, {"half": {f"c_{i:03d}": "AB"[i // 10] for i in range(20)}})
    (part,) = (part for part in found.strata if (part.level, part.method) == ("B", "second"))
    assert part.value == pytest.approx(roc_auc_score(truths[10:], scores["second"][10:]))
