"""`medexp compare RUNS_OR_STUDY`: which method is better, with statistics over cases and trainings."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from platformdirs import user_cache_path

from medexp.core.errors import UsageError

if TYPE_CHECKING:
    from medexp.compare.compare import Choices
    from medexp.compare.comparison import Comparison
    from medexp.compare.runs import RecordedRun

_PIPE_WIDTH = 10_000
_MOST_SENTENCES = 15
_ENSEMBLE = "ensemble"
_EPILOG = """examples:
  medexp compare losses                                     a study, by what its runs differ in
  medexp compare losses --by loss --baseline dice           each loss against Dice
  medexp compare STUDY OTHER --by study --metric dice,hd95  two studies; the first metric decides
  medexp compare STUDY --by loss --choose optimizer.lr      each loss at the rate that its validations chose
  medexp compare STUDY --strata cases.csv                   within parts of the cases too
  medexp compare --from wandb ENTITY/PROJECT --by loss      runs that were logged elsewhere

Runs are paired by fold, seed and case. A table of --strata has a column case_id and one for each factor; numbers are
cut into thirds. Verdict, intervals and limits are explained in docs/comparing.md. Exit codes: 0 good, 1 a record is
damaged, 2 wrong use, or runs that cannot be compared fairly."""


def compare_command(words: Sequence[str]) -> int:
    """Compare the methods of a study or of given runs.

    Args:
        words: Words after `medexp compare`.

    Returns:
        0.
    """
    arguments = _parser().parse_args(list(words))
    from medexp.compare.compare import Choices, compare_runs
    from medexp.compare.files import write_files
    from medexp.compare.runs import read_runs
    from medexp.compare.strata import read_factors

    every = _fetched(arguments) if arguments.source else read_runs(arguments.runs_or_study, arguments.runs)
    runs = [run for run in every if (run.value("fold") == _ENSEMBLE) == arguments.ensembles]
    if not runs:
        raise UsageError(f"{', '.join(arguments.runs_or_study)} has no ensemble; medexp ensemble STUDY makes them")
    choices = Choices(
        by=_listed(arguments.by),
        metrics=_listed(arguments.metric),
        baseline=arguments.baseline,
        alpha=arguments.alpha,
        resamples=arguments.resamples,
        seed=arguments.seed,
        force=arguments.force,
        factors=None if arguments.strata is None else read_factors(arguments.strata),
        command=shlex.join(["medexp", "compare", *words]),
        searched=arguments.choose,
    )
    found = compare_runs(runs, choices)
    usual = Path("comparison") if arguments.source else runs[0].path.parent / "comparison"
    files = write_files(found, arguments.out or usual, report=arguments.report)
    if arguments.log is not None:
        _log(runs, choices, arguments.log)
    if arguments.json:
        print(json.dumps(found.as_plain(), indent=2))
        return 0
    _show(found)
    print(f"\n{files[0].parent}: {', '.join(file.name for file in files)}")
    return 0


def _fetched(arguments: argparse.Namespace) -> list[RecordedRun]:
    """The runs of projects of Weights & Biases, whose records are kept in the user's cache."""
    from medexp.compare.from_wandb import fetch_runs
    from medexp.compare.runs import read_runs

    cache = user_cache_path("medexp") / "wandb"
    folders = [run for name in arguments.runs_or_study for run in fetch_runs(name, cache, group=arguments.group)]
    return read_runs([str(folder) for folder in folders], cache)


def _log(runs: Sequence[RecordedRun], choices: Choices, project: str) -> None:
    """Log the comparison to Weights & Biases, made anew from copies of the runs that name no patient and no path."""
    from medexp.compare import tables
    from medexp.compare.compare import compare_runs
    from medexp.compare.files import write_files
    from medexp.compare.runs import STUDY, read_runs
    from medexp.engine.shared_record import shared_copies
    from medexp.engine.wandb_report import log_report

    entity, _, name = project.rpartition("/")
    with TemporaryDirectory() as folder:
        place = Path(folder)
        copies = shared_copies([run.path for run in runs if run.finished], place / "runs")
        # Neither the factors of cases nor the command line are told.
        told = replace(choices, factors=None, command="")
        found = compare_runs(read_runs([str(copy) for copy in copies], place), told)
        url = log_report(
            write_files(found, place / "comparison"),
            {"methods": tables.scores_frame(found), "pairs": tables.pairs_frame(found)},
            study=runs[0].value(STUDY),
            project=name,
            entity=entity or None,
            folder=runs[0].path.parent,
            rename={},
        )
    print(f"logged to {url}" if url else "kept offline; medexp wandb sync sends it")


def _listed(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",")) if text else ()
    if "" in names:
        raise UsageError(f"a list needs a name between its commas, got {text!r}")
    return names


def _show(found: Comparison) -> None:
    """The methods, the verdicts of the first metric, and what a reader must know."""
    from rich.console import Console

    from medexp.compare import tables
    from medexp.compare.comparison import Level
    from medexp.compare.sheets import as_rich
    from medexp.compare.words import summary

    # A line per row where the output is read by a program.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False, markup=False)
    say = console.print
    if found.fairness.forced:
        say("UNFAIR, and forced:", style="bold red")
    for finding in found.fairness.findings:
        style = {Level.ERROR: "red", Level.WARNING: "yellow"}.get(finding.level, "")
        say(f"{finding.level}: {finding.what}: {finding.text}", style=style)
    say(summary(found), style="bold")
    say(as_rich(tables.scores(found)))
    _show_verdicts(found, say)
    facts = found.metrics[0]
    for sheet in (tables.ranks(found, facts, facts.labels[0]), tables.runs(found)):
        if sheet.rows:
            say("")
            say(as_rich(sheet))
    for note in found.notes:
        say(f"note: {note}")


def _show_verdicts(found: Comparison, say: Callable[..., None]) -> None:
    """The pairs of the first metric in sentences, or as a matrix where they are many."""
    from medexp.compare import tables
    from medexp.compare.sheets import as_rich
    from medexp.compare.words import verdict

    facts = found.metrics[0]
    label = facts.labels[0]
    pairs = found.pairs_of(facts.name, label)
    say(f"\n{facts.name}, {label}: {facts.estimand}")
    if len(pairs) <= _MOST_SENTENCES or found.baseline is not None:
        for pair in pairs:
            say(f"- {verdict(pair, facts)}")
        return
    say(as_rich(tables.matrix(found, facts, label)))
    for reason in dict.fromkeys(pair.verdict.reason for pair in pairs if pair.verdict.reason):
        say(f"- {reason}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp compare",
        description="Which method is better, worse or not separable, over cases and trainings.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs_or_study", nargs="+", help="names or folders of studies, or folders of runs")
    add("--by", default="", metavar="AXES", help="what makes a method, e.g. loss or loss,model (default: what differs)")
    add("--metric", default="", metavar="NAMES", help="metrics, the one that decides first (default: all)")
    add("--baseline", metavar="METHOD", help="compare all others with this one (default: each with each)")
    add("--choose", metavar="AXIS", help="what was searched for, e.g. optimizer.lr: each method at its best validation")
    add("--ensembles", action="store_true", help="compare what medexp ensemble has made of the folds")
    add("--alpha", type=float, default=0.05, help="level of the verdict (default: 0.05)")
    add("--resamples", type=int, default=10_000, help="of bootstrap and permutations (default: 10000)")
    add("--seed", type=int, default=0, help="what they are drawn with (default: 0)")
    add("--strata", type=Path, metavar="CSV", help="table with case_id and factors: size, scanner, ...")
    add("--force", action="store_true", help="compare what is not comparable, and say so in the report")
    add("--runs", type=Path, default=Path("runs"), help="folder of all studies (default: runs)")
    add("--out", type=Path, metavar="DIR", help="where files are written (default: STUDY/comparison)")
    add("--no-report", dest="report", action="store_false", help="leave out report.html, the page with plots")
    add("--json", action="store_true", help="print everything as JSON")
    add("--from", dest="source", choices=["wandb"], help="fetch the runs that ENTITY/PROJECT of Weights & Biases holds")
    add("--group", metavar="STUDY", help="with --from: the runs of this study alone")
    add("--log", metavar="[ENTITY/]PROJECT", help="log the comparison to Weights & Biases too, without ids of cases")
    return parser
