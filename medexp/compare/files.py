"""The files of a comparison: CSV for programs, Markdown for readers, LaTeX for a paper."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from medexp.compare import tables
from medexp.compare.comparison import Comparison, Level
from medexp.compare.figures import draw_critical_difference
from medexp.compare.report.page import write_report
from medexp.compare.sheets import Sheet, as_latex, as_markdown
from medexp.compare.words import basis, summary, verdict
from medexp.core.files import write_text

_RULE = (
    "Verdicts follow one rule: paired differences in a random-effects model of groups, trainings and seeds, "
    "Satterthwaite's degrees of freedom, Holm over all pairs of a metric and label. Intervals of values, ranks, "
    "Wilcoxon and permutation p-values describe and decide nothing."
)


def write_files(found: Comparison, folder: Path, *, report: bool = True) -> list[Path]:
    """Write comparison.csv, pairs.csv, cases.csv, comparison.md, comparison.tex and report.html.

    With three methods or more also critical_difference.svg, of the first metric that ranks methods within cases.

    Args:
        found: The comparison.
        folder: Where to; made where it does not exist.
        report: Write report.html.

    Returns:
        The files.
    """
    texts = {
        "comparison.csv": tables.scores_frame(found).to_csv(index=False),
        "pairs.csv": tables.pairs_frame(found).to_csv(index=False),
        "cases.csv": found.values.to_csv(index=False),
        "comparison.md": markdown(found),
        "comparison.tex": latex(found),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    files = [folder / name for name in texts]
    if report:
        files.append(write_report(found, folder / "report.html"))
    drawn = [ranking for ranking in found.rankings if math.isfinite(ranking.critical_difference)]
    return [*files, *(draw_critical_difference(one, folder / "critical_difference.svg") for one in drawn[:1])]


def markdown(found: Comparison) -> str:
    """The whole comparison for a reader.

    Args:
        found: The comparison.

    Returns:
        A page of Markdown.
    """
    forced = ["**These runs do not make a fair comparison; it was forced.**", ""] if found.fairness.forced else []
    return "\n".join(
        [
            "# Comparison",
            "",
            *forced,
            f"{summary(found)}.",
            "",
            *_listed(_remarks(found)),
            *_sections(found),
            *_end(found),
        ]
    )


def _remarks(found: Comparison) -> list[str]:
    marks = {Level.ERROR: "UNFAIR", Level.WARNING: "differs", Level.NOTE: "differs by design"}
    findings = [f"{marks[finding.level]}: {finding.what}: {finding.text}" for finding in found.fairness.findings]
    return [*findings, *found.notes]


def _listed(lines: list[str]) -> list[str]:
    return [*(f"- {line}" for line in lines), ""] if lines else []


def _sections(found: Comparison) -> Iterator[str]:
    yield f"## Methods\n\n{as_markdown(tables.scores(found))}"
    for facts in found.metrics:
        yield f"## {facts.name}\n\nEstimated: {facts.estimand}.\n"
        if len(facts.labels) > 1:
            yield as_markdown(tables.labels(found, facts))
        for label in facts.labels:
            yield f"### {facts.name}, {label}\n"
            yield from _listed([verdict(pair, facts) for pair in found.pairs_of(facts.name, label)])
            yield as_markdown(tables.pairs(found, facts, label))
            yield as_markdown(tables.matrix(found, facts, label))
            yield as_markdown(tables.ranks(found, facts, label))
            factors = dict.fromkeys(part.factor for part in found.strata if part.metric == facts.name)
            for factor in factors:
                yield as_markdown(tables.strata(found, facts, label, factor))


def _end(found: Comparison) -> Iterator[str]:
    sheet = tables.runs(found)
    if sheet.rows:
        yield f"## Runs\n\n{as_markdown(sheet)}"
    yield "## Configurations\n"
    yield from _listed(
        [f"{method.name}: {'; '.join(method.differences)}" for method in found.methods if method.differences]
    )
    yield f"## Made by\n\n{_RULE}\n"
    yield f"{found.resamples} resamples drawn with seed {found.bootstrap_seed}, level {found.alpha:g}.\n"
    yield f"```\n{found.command}\n```\n"


def latex(found: Comparison) -> str:
    """Two tables for a paper: the values, and the verdicts of the first metric.

    Args:
        found: The comparison.

    Returns:
        LaTeX that needs the package booktabs.
    """
    facts = found.metrics[0]
    own = found.pairs_of(facts.name, facts.labels[0])
    rests = f" The first pair rests on {basis(own[0])}." if own else ""
    forced = " These runs do not make a fair comparison; it was forced." if found.fairness.forced else ""
    of_pairs = tables.pairs(found, facts, facts.labels[0])
    kept = ("pair", "verdict", "difference", "95 %", "p (Holm)", "could have shown")
    places = [of_pairs.columns.index(name) for name in kept]
    short = Sheet(of_pairs.title, kept, tuple(tuple(row[at] for at in places) for row in of_pairs.rows))
    values = f"Mean over labels, 95 % interval of a two-level bootstrap over groups and trainings.{rests}{forced}"
    verdicts = f"{facts.name}: {facts.estimand}. {_RULE}{forced}"
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            f"% {found.command}",
            as_latex(tables.scores(found), values, "comparison"),
            as_latex(short, verdicts, "verdicts"),
        ]
    )
