"""`medexp ensemble STUDY`: the networks of all folds as one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from medexp.compare.status import FINISHED, RunState, read_study, study_folder
from medexp.core.errors import UsageError
from medexp.core.record import axes_name

_ENSEMBLE = "ensemble"


def ensemble_command(words: Sequence[str]) -> int:
    """Judge, for each combination of the other axes, the average of all folds on the test part.

    Args:
        words: Words after `medexp ensemble`.

    Returns:
        0.

    Raises:
        UsageError: There are no two finished folds of anything, or no test part.
        RecordError: A checkpoint is lost.
    """
    arguments = _parser().parse_args(list(words))
    alike = _by_other_axes(list(read_study(study_folder(arguments.study, arguments.runs))))
    if not alike:
        raise UsageError(f"{arguments.study} has no two finished folds of one configuration; train with fold=all")
    from medexp.engine.ensemble import judge_ensemble
    from medexp.engine.run import load_run

    for name, members in alike.items():
        run = judge_ensemble([load_run(state.folder.path) for state in members])
        shown = "  ".join(f"{metric} {by_label['mean']}" for metric, by_label in run.results.items())
        print(f"{name}: {len(members)} networks: {shown}", flush=True)
    return 0


def _by_other_axes(states: Sequence[RunState]) -> dict[str, list[RunState]]:
    """The finished runs that differ in their fold alone, where there are several."""
    found: dict[str, list[RunState]] = {}
    for state in states:
        if state.record is not None and state.status == FINISHED and state.record.axes.get("fold", "").isdigit():
            found.setdefault(axes_name({**state.record.axes, "fold": _ENSEMBLE}), []).append(state)
    return {name: members for name, members in found.items() if len(members) > 1}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp ensemble",
        description="Average what the networks of all folds predict of the test part, for each combination of the "
        "other axes, and record it as a run with fold=ensemble. medexp compare STUDY --ensembles compares them.",
    )
    parser.add_argument("study", help="name of a study, or its folder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all studies (default: runs)")
    return parser
