"""A search: trials are asked for when there is room for them, run as the jobs of a study, and told by their records."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from medexp.cli.board import Board
from medexp.cli.composition import Composer
from medexp.cli.console import console
from medexp.cli.metric_directions import directions
from medexp.cli.preflight import preflight, show
from medexp.cli.search_report import summary_of, tell
from medexp.cli.sweep import OFF, launcher_of, pin_threads, refuse
from medexp.compare.status import FAILED, FINISHED, PRUNED, RUNNING, RunState, read_run
from medexp.core.config import comparable, is_place, plain
from medexp.core.errors import MedexpError, UsageError, did_you_mean
from medexp.core.files import write_json
from medexp.core.instantiate import instantiate, trust_folders
from medexp.core.record import RunFolder, run_folder
from medexp.launchers.forks import warm_up
from medexp.launchers.jobs import Job, Launcher
from medexp.search.space import Space
from medexp.search.trials import Ledger, Search, Trial

# A search would choose the luckiest of these.
_NOT_SEARCHED = ("seed", "fold")
_MAY_CHANGE = ("n_trials", "_target_")
# How long the run of a search that was killed may take to save and stop.
_PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.1


def run_search(composer: Composer) -> int:
    """Search in what is swept, or go on with a search.

    Args:
        composer: The experiment and the overrides.

    Returns:
        0 if all trials have ended and one is complete, else 1.

    Raises:
        UsageError: It cannot be searched so.
        MedexpError: The first trial failed when a step of it was tried.
        KeyboardInterrupt: It was asked to stop.
    """
    warm_up("medexp.search.loaded")
    space = composer.sweep.space()
    check_space(space)
    probe = composer.compose_trial({key: domain.probe for key, domain in space.items()}, number=0)
    trust_folders(probe.paths.modules)
    search: Search = instantiate(probe.search, "search")
    config = composer.compose_trial(search.first_values(space), number=0)
    if search.prunes and not config.trainer.validate_every_epochs:
        raise UsageError(
            "trials are stopped by validations during the training, and trainer.validate_every_epochs is null; give "
            "a number of epochs, or train every trial to its end with search/pruner=none"
        )
    metric, maximize = _objective(search, config)
    launcher = launcher_of([config])
    pin_threads([config], launcher)
    print(f"study {config.study}: a search for the {'largest' if maximize else 'least'} {metric}", flush=True)
    _look_at_first(config, launcher)
    folder = _folder_of(config).path.parent
    about = _about(config, space)
    with search.open(folder, space, maximize=maximize, about=about, retry=config.retry == "failed") as ledger:
        driver = Driver(composer, ledger, folder=folder, metric=metric, maximize=maximize, about=about)
        driver.run(launcher)
        return tell(driver.summary(), folder)


def check_space(space: Space, *, lucky: bool = False) -> None:
    """Refuse what cannot be searched.

    Args:
        space: What may vary.
        lucky: Whether seeds and folds may vary, too.

    Raises:
        UsageError: Nothing varies, or something that must not.
    """
    if not space:
        raise UsageError("a search needs a key with several values, e.g. 'optimizer.lr=tag(log,interval(1e-4,1e-1))'")
    for key in space:
        name = key.lstrip("+")
        if name in _NOT_SEARCHED and not lucky:
            raise UsageError(
                f"{key} takes several values, of which a search would choose the luckiest; give one, and run the best "
                f"trial with the others afterwards (medexp train -m EXPERIMENT VALUES {key}=0..4)"
            )
        if is_place(name):
            raise UsageError(f"{key} takes several values but changes nothing that is computed; give one value")


def _objective(search: Search, config: DictConfig) -> tuple[str, bool]:
    """Name of the metric that is searched for, and whether its largest value is the best."""
    known = directions(config)
    name = search.metric or next(iter(known))
    if name not in known:
        raise UsageError(f"search.metric={name} is none of metrics ({', '.join(known)}){did_you_mean(name, known)}")
    return name, known[name]


def _about(config: DictConfig, space: Space) -> dict[str, Any]:
    """What is searched and how: of a search that goes on, all but the number of its trials stays the same."""
    return {
        "experiment": comparable(plain(config)),
        "space": {key: domain.as_plain() for key, domain in space.items()},
        "search": {
            **{key: value for key, value in plain(config.search).items() if key not in _MAY_CHANGE},
            "options": {group: option for group, option in config.options.items() if group.startswith("search")},
        },
    }


def _folder_of(config: DictConfig) -> RunFolder:
    return run_folder(Path(config.paths.runs), config.study, config.axes)


def _look_at_first(config: DictConfig, launcher: Launcher) -> None:
    """Build the first trial and try a step of it, unless that is not wanted."""
    if config.preflight in OFF:
        return
    findings = preflight([Job(config, _folder_of(config))], here=launcher.here, measure=config.preflight == "full")
    show(findings, console(), at_once=1)
    refuse([finding for finding in findings if finding.error])


class Driver:
    """Brings trials to a launcher, and what became of them to the ledger.

    Args:
        composer: The experiment and the overrides.
        ledger: The trials.
        folder: The study's folder.
        metric: Name of the metric whose mean over the validation cases is searched for.
        maximize: Whether its largest value is the best.
        about: What the search is about, for the record.
    """

    def __init__(
        self,
        composer: Composer,
        ledger: Ledger,
        *,
        folder: Path,
        metric: str,
        maximize: bool,
        about: Mapping[str, Any],
    ) -> None:
        self.composer = composer
        self.ledger = ledger
        self.folder = folder
        self.metric = metric
        self.maximize = maximize
        self.about = about
        self.board = Board([], console=console())
        self._given: dict[int, RunFolder] = {}
        self._begun: dict[int, RunFolder] = {}
        self._made: set[Path] = set()

    def run(self, launcher: Launcher) -> None:
        """Run trials until there are enough.

        Args:
            launcher: What runs them. One that does not wait until there is room gets as many as run at a time.
        """
        jobs = self.jobs()
        with self.board:
            try:
                if launcher.pulls:
                    launcher.launch(jobs, tick=self.board.tick)
                else:
                    self._run_in_groups(launcher, jobs)
                self._note_begun()
            finally:
                self.collect()

    def _run_in_groups(self, launcher: Launcher, jobs: Iterator[Job]) -> None:
        while group := list(islice(jobs, launcher.at_once or 1)):
            launcher.launch(group, tick=self.board.tick)
            self._note_begun()
            self.collect()
            if self._begun:  # left to a cluster
                return

    def jobs(self) -> Iterator[Job]:
        """The jobs of trials, each asked for when it is wanted: those that were interrupted, then new ones."""
        for trial in self.ledger.adopt():
            yield from self._job(trial, adopted=True)
        while True:
            self.collect()
            new = self.ledger.claim()
            if new is None:
                return
            yield from self._job(new, adopted=False)

    def _job(self, trial: Trial, *, adopted: bool) -> Iterator[Job]:
        """The job of a trial, unless its run is made already, or cannot be made."""
        try:
            config = self.composer.compose_trial(trial.values, number=trial.number)
        except MedexpError as error:
            self.ledger.fail(trial.number, str(error))
            return
        job = Job(config, _folder_of(config))
        is_alone = self.ledger.place(trial.number, job.folder.path.name)
        if job.folder.path not in self._made and (adopted or is_alone) and _is_free(job.folder):
            self._made.add(job.folder.path)
            self.board.add(job.folder)
            self._given[trial.number] = job.folder
            yield job
            self._note_begun()
        else:
            self._begun[trial.number] = job.folder

    def _note_begun(self) -> None:
        """What was given to the launcher has begun, so that its folder tells of it, and not of a run before."""
        self._begun |= self._given
        self._given = {}

    def collect(self) -> None:
        """Tell the ledger of the trials that have ended."""
        for number, folder in list(self._begun.items()):
            state = read_run(folder)
            if state is not None and self._told(number, state):
                del self._begun[number]
        write_json(self.folder / "search.json", self.summary())

    def _told(self, number: int, state: RunState) -> bool:
        """Tell the ledger what became of a trial; False where it has not ended."""
        if state.status == FINISHED:
            score, problem = _score(state, self.metric)
            if score is None:
                self.ledger.fail(number, problem)
            else:
                self.ledger.complete(number, score)
        elif state.status == PRUNED:
            self.ledger.prune(number)
        elif state.status == FAILED:
            self.ledger.fail(number, state.reason)
        return state.status in (FINISHED, PRUNED, FAILED)

    def summary(self) -> dict[str, Any]:
        """The search as plain values: what it was about, its trials, the best one."""
        return summary_of(self.ledger, self.folder, metric=self.metric, maximize=self.maximize, about=self.about)


def _is_free(folder: RunFolder) -> bool:
    """Whether no process makes a run; one that a killed search has left behind saves and stops within a while."""
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        state = read_run(folder)
        if state is None or state.status != RUNNING:
            return True
        time.sleep(_LOOK_EVERY_S)
    print(f"{folder.path} is being written by another process; its trial stays open", file=sys.stderr)
    return False


def _score(state: RunState, metric: str) -> tuple[float | None, str]:
    """Mean of a metric over the validation cases at the end of a run, or why there is none."""
    assert state.record is not None
    results = state.record.results if state.record.part == "val" else state.record.validation
    if metric not in results:
        return None, "its run was made without a search, and its validation cases were not judged; choose study=NAME"
    score = results[metric].get("mean")
    return (None, f"{metric} is undefined") if score is None or not math.isfinite(score) else (score, "")
