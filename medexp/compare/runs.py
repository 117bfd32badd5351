"""Reading the runs that are to be compared: which method each is of, its training, its evidence, its learning curve."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from medexp.compare.status import RunState, read_run, read_study, study_folder
from medexp.core.config import is_place, leaves
from medexp.core.errors import RecordError, UsageError, did_you_mean
from medexp.core.record import Record, RunFolder, Status

PAIRING = ("fold", "seed")
STUDY = "study"
# Axes whose runs may be mixed: what they change is told apart by metric, or watched by `fairness`.
_WATCHED = frozenset({"metrics", "overlays", "save_predictions", "threads", "precision"})
_WORDS = ("case_id", "group", "metric", "label", "outcome", "part")
_NUMBERS = ("value", "score", "threshold")

Training = tuple[str, str]


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run as its folder tells it.

    Attributes:
        state: Folder, record and problem.
        config: Its resolved configuration; empty where there is none.
    """

    state: RunState
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def record(self) -> Record:
        """The record; only of a run that can be read."""
        assert self.state.record is not None
        return self.state.record

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.state.folder.path

    @property
    def finished(self) -> bool:
        """Whether its results are complete."""
        return self.state.record is not None and self.state.status == Status.FINISHED

    @property
    def training(self) -> Training:
        """Fold and seed: what one method's run shares with the run of another that it is paired with."""
        fold, seed = (self.value(key) for key in PAIRING)
        return fold, seed

    @cached_property
    def _leaves(self) -> dict[str, Any]:
        return dict(leaves(self.config))

    def value(self, axis: str) -> str:
        """What the run has on an axis: as the user gave it, else the chosen option, else the configuration's value."""
        if self.state.record is None:
            return _axes_of_name(self.path.name).get(axis, "")
        if axis == STUDY:
            return self.record.study
        options = self.config.get("options") or {}
        given = self.record.axes.get(axis, options.get(axis, self._leaves.get(axis.replace("/", "."))))
        return "" if given is None else str(given)

    def evidence(self) -> pd.DataFrame:
        """The evidence rows: words as words and numbers as numbers, columns that were dropped as unused added again.

        Returns:
            A line per row.

        Raises:
            RecordError: There is none, or it is damaged.
        """
        file = self.state.folder.evidence
        try:
            table = pd.read_csv(
                file,
                dtype=dict.fromkeys(_WORDS, str),
                keep_default_na=False,
                na_values={name: ["", "nan"] for name in _NUMBERS},
            )
        except (OSError, ValueError) as error:
            raise RecordError(
                f"{file} cannot be read ({error}); run `medexp evaluate`, or leave the run out"
            ) from error
        lacking = {"case_id", "group", "metric", "label", "value"} - set(table.columns)
        if lacking:
            raise RecordError(f"{file} lacks the columns {', '.join(sorted(lacking))}; restore it or leave the run out")
        return table.assign(**{name: float("nan") for name in _NUMBERS if name not in table}).assign(
            **{name: "" for name in ("outcome",) if name not in table}
        )

    def history(self) -> pd.DataFrame:
        """The learning curve; empty where there is none."""
        file = self.state.folder.history
        try:
            return pd.read_csv(file)
        except (OSError, ValueError):
            return pd.DataFrame()


def read_runs(places: Sequence[str], runs: Path) -> list[RecordedRun]:
    """All runs of the given studies and run folders, each once.

    Args:
        places: Names of studies, folders of studies, and folders of runs.
        runs: Folder of all studies.

    Returns:
        The runs, in the order in which they are found.

    Raises:
        UsageError: A place is none of these, or there is no run.
    """
    states: dict[Path, RunState] = {}
    for place in places:
        for state in _states(place, runs):
            states.setdefault(state.folder.path.resolve(), state)
    if not states:
        raise UsageError(f"there is no run in {', '.join(places)}; train some first: `medexp train -m ... seed=0..2`")
    return [RecordedRun(state=state, config=_config(state.folder)) for state in states.values()]


def _states(place: str, runs: Path) -> Iterable[RunState]:
    state = read_run(RunFolder(Path(place)))
    return list(read_study(study_folder(place, runs))) if state is None else [state]


def _config(folder: RunFolder) -> dict[str, Any]:
    try:
        config = yaml.safe_load(folder.config.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return config if isinstance(config, dict) else {}


def _axes_of_name(name: str) -> dict[str, str]:
    """Axes of a run whose record cannot be read, as far as its folder's name says them."""
    parts = (part.split("=", 1) for part in name.split(",") if "=" in part)
    return {part[0]: part[1] for part in parts}


def varied_axes(runs: Sequence[RecordedRun]) -> list[str]:
    """Axes on which runs differ, apart from fold and seed and what may be mixed."""
    named = dict.fromkeys(axis for run in runs if run.state.record is not None for axis in run.record.axes)
    readable = [run for run in runs if run.state.record is not None]
    return [
        axis
        for axis in named
        if axis not in (*PAIRING, *_WATCHED)
        and not is_place(axis)
        and not axis.startswith(("callbacks", "tracking"))
        and len({run.value(axis) for run in readable}) > 1
    ]


def method_axes(runs: Sequence[RecordedRun], by: Sequence[str], *, searched: str | None = None) -> tuple[str, ...]:
    """The axes whose values make a method, checked, or found where none is given.

    Args:
        runs: All runs.
        by: The axes that the user gave; none for those on which the runs differ.
        searched: An axis whose value was chosen for each method; it may differ.

    Returns:
        The axes.

    Raises:
        UsageError: No run has such an axis, fold or seed is named, or runs differ in an axis that is not.
    """
    varied = varied_axes(runs)
    if not by:
        several = len({run.value(STUDY) for run in runs}) > 1
        return tuple(varied) or ((STUDY,) if several else ("loss",))
    for axis in by:
        if axis in PAIRING:
            raise UsageError(
                f"--by {axis}: runs are paired by fold and seed; a method is something else, e.g. --by loss"
            )
        if not any(run.value(axis) for run in runs):
            known = dict.fromkeys([*varied, "loss", "model", "optimizer", STUDY])
            raise UsageError(
                f"--by {axis}: no run has such an axis{did_you_mean(axis, known)} (e.g. {', '.join(known)})"
            )
    others = [] if STUDY in by else [axis for axis in varied if axis not in (*by, searched)]
    for axis in others:
        values = sorted({run.value(axis) for run in runs if run.state.record is not None})
        raise UsageError(
            f"the runs differ in {axis} too ({', '.join(values[:6])}); add it: --by {','.join([*by, axis])}, or give "
            "only runs with one value of it"
        )
    return tuple(by)


def _values(run: RecordedRun, by: Sequence[str]) -> tuple[str, ...]:
    return tuple(run.value(axis) for axis in by)


def method_name(run: RecordedRun, by: Sequence[str]) -> str:
    """What the run's method is called: its values of the axes."""
    return ", ".join(value or "(none)" for value in _values(run, by))


def by_method(runs: Sequence[RecordedRun], by: Sequence[str]) -> dict[str, dict[Training, RecordedRun]]:
    """The finished runs of each method by training.

    Args:
        runs: All runs.
        by: Axes whose values make a method.

    Returns:
        Runs by training by method, in the order of the runs.

    Raises:
        UsageError: Two runs are of the same method and training.
    """
    found: dict[str, dict[Training, RecordedRun]] = {}
    for run in runs:
        if not run.finished:
            continue
        own = found.setdefault(method_name(run, by), {})
        if run.training in own:
            fold, seed = run.training
            raise UsageError(
                f"two runs are of {method_name(run, by)}, fold {fold}, seed {seed}: {own[run.training].path} and "
                f"{run.path}; leave one out, or add what they differ in to --by"
            )
        own[run.training] = run
    return found
