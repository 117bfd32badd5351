"""The page of a comparison: what it holds, and what a reader finds there with a browser."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import answer
from made_up_rows import auroc_rows, dice_rows

from medexp.compare import tables
from medexp.compare.compare import Choices, compare_runs
from medexp.compare.comparison import Answer, Comparison, Run
from medexp.compare.report.numbers import curves
from medexp.compare.report.page import write_report
from medexp.compare.report.worst import pictures, worst_cases
from medexp.compare.runs import read_runs
from medexp.core.files import safe_name
from medexp.core.record import RunFolder, Status
from medexp.core.types import EvidenceRow

WriteRun = Callable[..., RunFolder]
_HOSTILE = "<script>window.hacked = true</script>"
_CASES = (_HOSTILE, *(f"case {place}" for place in range(1, 9)))
# One pixel.
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _rows(random: np.random.Generator, gain: float) -> list[EvidenceRow]:
    """Dice of two labels and HD95 of one; the first case is the worst."""
    rows = []
    for place, case in enumerate(_CASES):
        base = 0.3 + 0.05 * place + gain + random.normal() * 0.01
        rows += [EvidenceRow(case, f"group {place}", "dice", label, base - 0.1 * at) for at, label in enumerate("ab")]
        rows.append(EvidenceRow(case, f"group {place}", "hd95", "a", 20 - 10 * base))
    return rows


@pytest.fixture(scope="module")
def study(run_writer: Callable[[Path], WriteRun], tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Three losses with three seeds; another run failed, and the worst case is drawn by one."""
    folder = tmp_path_factory.mktemp("report")
    write_run = run_writer(folder / "runs")
    random = np.random.default_rng(0)
    for loss, gain in (("dice", 0.0), ("focal", 0.1), ("<b>own</b>", 0.1)):
        for seed in range(3):
            run = write_run(_rows(random, gain), loss=loss, seed=seed)
    run.overlays.mkdir()
    (run.overlays / f"{safe_name(_HOSTILE)}_contour.png").write_bytes(_PNG)
    write_run([], loss="dice", seed=7, record={"status": Status.FAILED, "error": "no <memory>"})
    factors = {"scanner": {case: "AB"[place % 2] for place, case in enumerate(_CASES)}}
    return _compared(folder, factors=factors, command="medexp compare study --strata 'a & b.csv'")


@pytest.fixture(scope="module")
def page(study: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(study, tmp_path_factory.mktemp("page") / "report.html")


def _compared(folder: Path, **choices: Any) -> Comparison:
    return compare_runs(read_runs(["study"], folder / "runs"), Choices(resamples=200, **choices))


class _Links(HTMLParser):
    """What a page asks the browser to load or to open, apart from its texts and scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("link", "iframe", "base", "object"), tag


def _data(page: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def _before_scripts(page: Path) -> str:
    """What a reader sees without any script."""
    return page.read_text().split('<script type="application/json"')[0]


def test_it_needs_nothing_but_itself(page: Path) -> None:
    links = _Links()
    links.feed(page.read_text())
    assert links.found
    assert all(link.startswith("#") for link in links.found)


def test_its_numbers_are_those_of_the_comparison(study: Comparison, page: Path) -> None:
    data = _data(page)
    for facts in study.metrics:
        for label in facts.labels:
            view = data["views"][facts.name][label]
            scores = study.scores_of(facts.name, label)
            assert [one["value"] for one in view["scores"]] == pytest.approx([one.value for one in scores], rel=1e-4)
            pairs = study.pairs_of(facts.name, label)
            told = [(one["first"], one["second"], one["answer"]) for one in view["pairs"]]
            assert told == [(one.first, one.second, str(one.verdict.answer)) for one in pairs]
            drawn = [one["difference"] for one in view["pairs"]]
            assert drawn == pytest.approx([one.verdict.difference for one in pairs], rel=1e-4)
            cases = study.values[(study.values["metric"] == facts.name) & (study.values["label"] == label)]
            for name, values in zip(data["methods"], view["units"]["values"], strict=True):
                own = cases[cases["method"] == name].groupby("case_id")["value"].mean()
                ids = [data["metrics"][study.metrics.index(facts)]["units"][place] for place in view["units"]["units"]]
                assert values == pytest.approx([own[case] for case in ids], rel=1e-4)


def test_what_a_reader_must_know_stands_there_without_scripts(study: Comparison, page: Path) -> None:
    seen = _before_scripts(page)
    assert "dice is worse than focal: -0.1" in seen
    assert "no &lt;memory&gt;" in seen
    assert "medexp compare study --strata &#39;a &amp; b.csv&#39;" in seen
    assert "loss=dice fold=0 seed=0,1,2,7" in seen
    assert study.metrics[0].estimand.split('"')[0] in seen


def test_ids_and_names_are_texts(page: Path) -> None:
    text = page.read_text()
    assert _HOSTILE not in text
    assert "<b>own</b>" not in text


def test_a_forced_comparison_cannot_be_mistaken(write_run: WriteRun, tmp_path: Path) -> None:
    for loss, precision in (("dice", "32-true"), ("focal", "bf16-mixed")):
        write_run(dice_rows([0.5, 0.6]), loss=loss, record={"precision": precision})
    page = _before_scripts(write_report(_compared(tmp_path, force=True), tmp_path / "report.html"))
    assert 'class="forced" role="alert">UNFAIR, and forced' in page
    assert '<li class="error"><b>error</b> precision' in page


def test_many_pairs_are_counted_in_words(write_run: WriteRun, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for place in range(7):
        for seed in range(2):
            values = np.linspace(0.3, 0.5, 8) + 0.04 * (place // 2) + random.normal(size=8) * 0.003
            write_run(dice_rows(values), loss=f"loss{place}", seed=seed)
    found = _compared(tmp_path)
    told = _data(write_report(found, tmp_path / "report.html"))["views"]["dice"]["mean"]["told"]
    answers = [pair.verdict.answer for pair in found.pairs if pair.label == "mean"]
    apart = len(answers) - answers.count(Answer.NOT_SEPARABLE)
    assert told[0] == f"{apart} of 21 pairs can be told apart"
    counts = [re.fullmatch(r"loss\d is better than (\d) and worse than (\d) of the others", line) for line in told[1:]]
    assert (
        sum(int(one.group(1)) for one in counts if one) == sum(int(one.group(2)) for one in counts if one) == apart > 0
    )


def test_a_metric_without_values_per_case_has_no_worst_cases(write_run: WriteRun, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truths = np.arange(20) % 2 == 0
    for loss in ("dice", "focal"):
        for seed in range(2):
            write_run(auroc_rows(truths, random.uniform(size=20) + truths), loss=loss, seed=seed)
    data = _data(write_report(_compared(tmp_path), tmp_path / "report.html"))
    view = data["views"]["auroc"]["mean"]
    assert view["worst"] == []
    assert len(view["units"]["units"]) == 20


def test_worst_cases_are_those_with_the_largest_difference_and_the_worst_mean(study: Comparison) -> None:
    index = pd.MultiIndex.from_product([["mean"], list("abcd")], names=["label", "unit"])
    table = pd.DataFrame({"dice": [0.9, 0.5, 0.1, 0.3], "focal": [0.8, 0.1, 0.1, np.nan]}, index=index)
    found = worst_cases(table, study.metrics[0], "mean")
    assert [[row[0] for row in sheet.rows] for sheet in found.sheets] == [["b", "a", "c"], ["c", "b", "a"]]
    assert found.sheets[0].rows[0][2:] == ("0.4000", "focal", "0.1000", "dice", "0.5000")
    lower = worst_cases(table, study.metrics[1], "mean")
    assert lower.sheets[1].rows[0][0] == "a"
    assert lower.sheets[0].rows[0][3] == "dice"


def test_pictures_are_those_that_the_runs_of_a_method_have_drawn(study: Comparison) -> None:
    drawn, left_out = pictures(study, [(_HOSTILE, "dice", "<b>own</b>"), ("case 1", "dice", "focal")])
    assert left_out == 0
    (one,) = drawn
    assert (one["case"], one["method"], one["seed"]) == (_HOSTILE, "<b>own</b>", "2")
    assert base64.b64decode(one["uri"].removeprefix("data:image/png;base64,")) == _PNG
    value = study.values.query("case_id == @_HOSTILE and method == '<b>own</b>' and seed == '2' and label == 'b'")
    assert one["values"]["dice"]["b"] == pytest.approx(value["value"].item(), rel=1e-4)


def test_long_curves_of_many_runs_keep_their_ends_and_what_is_defined() -> None:
    steps = np.arange(1, 5001)
    loss = np.where(steps % 2 == 0, 1 / steps, np.nan)
    history = pd.DataFrame({"epoch": steps, "step": steps, "lr": 0.1, "train/loss": loss, "val/dice/mean": np.nan})
    runs = [Run(Path(), "dice", "0", str(seed), "finished", history=history) for seed in range(100)]
    found = curves(runs)
    assert list(found) == ["train/loss", "lr"]
    _, _, _, shown, values = found["train/loss"][0]
    assert (shown[0], shown[-1], len(shown)) == (2, 5000, 200)
    assert values == pytest.approx([1 / step for step in shown], rel=1e-4)


_ASKED = """
const told = { protocol: location.protocol, hacked: Boolean(window.hacked) };
const cells = id => [...byId(id).tBodies[0].rows].map(row => [...row.cells].map(cell => cell.textContent));
const choose = (id, value) => { byId(id).value = value; byId(id).dispatchEvent(new Event("change")); };
told.start = { pairs: cells("pairs-table"), scores: cells("scores-table"),
  now: document.querySelector(".now").textContent };
told.drawn = Object.keys(PLOTS).map(id => [id, byId(id).querySelectorAll("svg.main-svg").length]);
told.plotted = byId("score-plot").data.map(trace => trace.x[0]);
told.pair = byId("pair-told").textContent;
told.diagram = byId("diagram").querySelectorAll("svg").length;
told.pictures = [...byId("worst-pictures").querySelectorAll("img")].map(one => [one.alt, one.naturalWidth]);
told.worst = cells("worst-table-1").map(row => row[0]);
choose("first", "focal"); choose("second", "<b>own</b>");
told.other_pair = byId("pair-told").textContent;
told.lines = byId("case-plot").data.slice(-2).map(trace => trace.marker.color);
choose("label", "b"); told.of_label = cells("pairs-table");
choose("metric", "hd95");
told.of_metric = { pairs: cells("pairs-table"), plotted: byId("score-plot").data.map(trace => trace.x[0]),
  labels: [...byId("label").options].map(one => one.value), title: byId("score-plot").layout.xaxis.title.text };
choose("metric", "dice");
const pairs = [...Array(41).keys()].map(i => (
  { first: `m${i}`, second: `m${i + 1}`, answer: "better", difference: 2, low: 1, high: 4, p: 0.01 }));
told.turned = pairsToDraw({ pairs }, "m3");
const head = place => byId("runs").querySelectorAll("thead button")[place];
const minutes = () => cells("runs-table").map(row => row[2]);
head(2).click(); told.ascending = minutes(); head(2).click(); told.descending = minutes();
const box = byId("runs").querySelector("input[type=search]");
box.value = "FAILED"; box.dispatchEvent(new Event("input"));
told.searched = [...byId("runs-table").tBodies[0].rows].filter(row => !row.hidden).length;
told.factors = [...byId("factor").options].map(one => one.value);
const loaded = performance.getEntriesByType("resource").map(one => one.name);
told.resources = loaded.filter(name => !name.startsWith("data:"));
told.errors = window.wrong;
return told;
"""
_LISTENING = """<head><script>
window.wrong = [];
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  addEventListener(kind, event => window.wrong.push(`${kind}: ${event.message || event.reason || event.blockedURI}`));
for (const level of ["error", "warn"]) console[level] = (...words) => window.wrong.push(words.join(" "));
</script>"""


def test_in_a_browser_it_opens_from_disk_filters_sorts_and_searches(
    study: Comparison, page: Path, tmp_path: Path
) -> None:
    listening = tmp_path / "report.html"
    listening.write_text(page.read_text().replace("<head>", _LISTENING, 1))
    told = answer(listening, _ASKED)
    assert told.get("error") is None, told
    assert (told["protocol"], told["hacked"], told["errors"], told["resources"]) == ("file:", False, [], [])
    dice, hd95 = study.metrics
    rows = {label: [list(row) for row in tables.pairs(study, dice, label).rows] for label in dice.labels}
    assert told["start"]["pairs"] == rows["mean"]
    assert told["start"]["scores"] == [list(row) for row in tables.scores(study).rows]
    assert told["start"]["now"] == "dice, mean"
    assert told["drawn"] == [[name, drawn] for name, drawn in told["drawn"] if drawn > 0]
    assert told["diagram"] == 1
    _check_cases(told)
    assert told["of_label"] == rows["b"]
    assert told["of_metric"]["pairs"] == [list(row) for row in tables.pairs(study, hd95, "mean").rows]
    for name, plotted in (("dice", told["plotted"]), ("hd95", told["of_metric"]["plotted"])):
        assert plotted == pytest.approx([score.value for score in study.scores_of(name, "mean")], rel=1e-4)
    assert (told["of_metric"]["labels"], told["of_metric"]["title"]) == (["mean"], "hd95 [mm]")
    seeds = ["0"] * 3 + ["1"] * 3 + ["2"] * 3 + ["7"]
    assert (told["ascending"], told["descending"]) == (seeds, seeds[::-1])
    assert (told["searched"], told["factors"]) == (1, ["scanner"])

    before, after = told["turned"]
    assert (before["first"], before["second"], before["answer"]) == ("m3", "m2", "worse")
    assert (before["difference"], before["low"], before["high"]) == (-2, -4, -1)
    assert (after["first"], after["second"], after["answer"]) == ("m3", "m4", "better")


def _check_cases(told: dict[str, Any]) -> None:
    assert told["worst"][0] == _HOSTILE
    assert told["pictures"] == [[f"reference and prediction of {_HOSTILE} by <b>own</b>, fold 0, seed 2", 1]]
    assert "<b>own</b> - dice: better" in told["pair"]
    assert "<b>own</b> - focal: not separable" in told["other_pair"]
    assert len(set(told["lines"])) == 2
