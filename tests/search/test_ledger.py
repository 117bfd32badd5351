"""Trials in SQLite, by processes that come, go and are killed."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from medexp.core.errors import UsageError
from medexp.search.optuna_search import Optuna
from medexp.search.pruners import Hyperband, Median, Never, Pruner
from medexp.search.samplers import Grid, Random, Sampler, Tpe
from medexp.search.space import Choices, Numbers, Space
from medexp.search.trials import Ledger, Search, State

pytest.importorskip("optuna")

SPACE: Space = {
    "lr": Numbers(1e-4, 1e-1, whole=False, log=True),
    "depth": Numbers(1, 7, whole=True, step=2),
    "loss": Choices(("dice", "focal", "[a,b]")),
}
GRID: Space = {"loss": Choices(("dice", "focal")), "depth": Numbers(1, 3, whole=True, step=1)}


def _search(
    n_trials: int | None = 6, sampler: Sampler | None = None, pruner: Pruner | None = None, seed: int = 0
) -> Optuna:
    sampler = Tpe(startup_trials=3, candidates=24) if sampler is None else sampler
    return Optuna(n_trials=n_trials, metric=None, seed=seed, sampler=sampler, pruner=pruner or Never())


@contextmanager
def _opened(
    folder: Path, search: Optuna | None = None, *, space: Space = SPACE, retry: bool = False, **about: Any
) -> Iterator[Ledger]:
    search = _search() if search is None else search
    with search.open(folder, space, maximize=True, about=about, retry=retry) as ledger:
        yield ledger


def _score(values: dict[str, str]) -> float:
    """Minus the distance from 0.01 in decades."""
    return -abs(math.log10(float(values["lr"])) + 2)


def _finish(ledger: Ledger, *, at_most: int = 100) -> list[dict[str, str]]:
    """Claim and complete trials one after the other; the values that they tried."""
    tried = []
    while len(tried) < at_most and (trial := ledger.claim()) is not None:
        ledger.place(trial.number, f"run{trial.number}")
        ledger.complete(trial.number, _score(trial.values))
        tried.append(trial.values)
    return tried


def test_it_is_what_the_command_line_expects(tmp_path: Path) -> None:
    assert isinstance(_search(), Search)
    with _opened(tmp_path) as ledger:
        assert isinstance(ledger, Ledger)


def test_values_are_of_the_space_and_spelt_as_overrides(tmp_path: Path) -> None:
    with _opened(tmp_path, _search(20, Random())) as ledger:
        tried = _finish(ledger)
    assert len(tried) == 20
    assert all(1e-4 <= float(values["lr"]) <= 1e-1 for values in tried)
    assert {values["depth"] for values in tried} == {"1", "3", "5", "7"}
    assert {values["loss"] for values in tried} == {"dice", "focal", "[a,b]"}


@pytest.mark.parametrize("sampler", [Tpe(startup_trials=3, candidates=24), Random()])
def test_the_same_seed_tries_the_same_however_often_it_is_interrupted(tmp_path: Path, sampler: Sampler) -> None:
    search = _search(6, sampler)
    with _opened(tmp_path / "whole", search) as ledger:
        whole = _finish(ledger)
    pieces: list[dict[str, str]] = []
    for count in (1, 4, 100):
        with _opened(tmp_path / "pieces", search) as ledger:
            pieces += _finish(ledger, at_most=count)
    assert pieces == whole
    assert whole[0] == search.first_values(SPACE)
    assert len({json.dumps(values) for values in whole}) == 6
    with _opened(tmp_path / "other", _search(6, sampler, seed=1)) as ledger:
        assert _finish(ledger) != whole


def test_tpe_learns_from_the_trials_before(tmp_path: Path) -> None:
    """What is drawn at random lies 0.75 decades from the optimum in the middle."""
    search = _search(30, Tpe(startup_trials=10, candidates=24), seed=2)
    with _opened(tmp_path, search, space={"lr": SPACE["lr"]}) as ledger:
        tried = _finish(ledger)
    assert statistics.median(-_score(values) for values in tried[10:]) < 0.45


def test_a_grid_tries_every_combination_once_in_order(tmp_path: Path) -> None:
    wanted = [{"loss": loss, "depth": depth} for loss in ("dice", "focal") for depth in ("1", "2", "3")]
    for n_trials, expected in ((2, wanted[:2]), (None, wanted), (100, wanted)):
        with _opened(tmp_path, _search(n_trials, Grid()), space=GRID) as ledger:
            while (trial := ledger.claim()) is not None:
                ledger.complete(trial.number, 0.0)
            assert [trial.values for trial in ledger.trials()] == expected
    assert _search(None, Grid()).first_values(GRID) == wanted[0]


def test_an_open_trial_goes_to_the_next_worker_and_is_no_new_one(tmp_path: Path) -> None:
    with _opened(tmp_path) as ledger:
        left = ledger.claim()
        assert left is not None
        with _opened(tmp_path) as beside:
            assert beside.adopt() == []  # its worker is there
    with _opened(tmp_path) as ledger:
        (adopted,) = ledger.adopt()
        assert (adopted.number, adopted.values) == (left.number, left.values)
        ledger.complete(adopted.number, 0.5)
        assert len(_finish(ledger)) == 5
        assert [trial.number for trial in ledger.trials()] == list(range(6))


WORKER = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_ledger
with test_ledger._opened(Path({folder!r}), test_ledger._search(20, test_ledger.Random())) as ledger:
    print("begun", flush=True)
    sys.stdin.readline()
    while (trial := ledger.claim()) is not None:
        if trial.number == {dies_at}:
            os.kill(os.getpid(), signal.SIGKILL)
        ledger.complete(trial.number, 0.0)
        print(trial.number, flush=True)
"""


def _worker(folder: Path, *, dies_at: int = -1) -> subprocess.Popen[str]:
    code = WORKER.format(tests=str(Path(__file__).parent), folder=str(folder), dies_at=dies_at)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_workers_share_the_trials_and_the_trial_of_a_killed_one_is_left_to_the_next(tmp_path: Path) -> None:
    workers = [_worker(tmp_path), _worker(tmp_path, dies_at=7)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
    done = [[int(line) for line in worker.communicate("go\n", timeout=60)[0].split()] for worker in workers]
    assert sorted(done[0] + done[1]) == [number for number in range(20) if number != 7] or workers[1].returncode == 0
    with _opened(tmp_path, _search(20, Random())) as ledger:
        adopted = [trial.number for trial in ledger.adopt()]
        assert adopted == ([7] if workers[1].returncode == -signal.SIGKILL else [])
        assert len(ledger.trials()) == 20
        assert ledger.claim() is None
    assert os.listdir(tmp_path).count(".search.lock") == 1
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".search-")]


def test_a_trial_that_was_cut_off_while_it_was_drawn_gets_the_rest_of_its_values(tmp_path: Path) -> None:
    import optuna

    with _opened(tmp_path):
        pass
    study = optuna.load_study(study_name="medexp", storage=f"sqlite:///{tmp_path / 'optuna.db'}")
    begun = study.ask()
    lr = begun.suggest_float("lr", 1e-4, 1e-1, log=True)
    study._storage.remove_session()
    with _opened(tmp_path) as ledger:
        (adopted,) = ledger.adopt()
    assert list(adopted.values) == list(SPACE)
    assert float(adopted.values["lr"]) == lr


def test_another_search_in_the_same_folder_is_refused_with_what_differs(tmp_path: Path) -> None:
    with _opened(tmp_path, experiment={"loss": {"gamma": 2}}):
        pass
    with _opened(tmp_path, _search(99), experiment={"loss": {"gamma": 2}}):
        pass
    refused = pytest.raises(UsageError, match=r"loss\.gamma: 2 -> 3\n.*study=NAME")
    with refused, _opened(tmp_path, experiment={"loss": {"gamma": 3}}):
        pass


def test_the_run_of_two_trials_is_made_once(tmp_path: Path) -> None:
    with _opened(tmp_path) as ledger:
        assert [trial.number for trial in (ledger.claim(), ledger.claim()) if trial is not None] == [0, 1]
        assert ledger.place(0, "same")
        assert not ledger.place(1, "same")


def test_a_failed_trial_counts_and_is_tried_again_on_demand(tmp_path: Path) -> None:
    with _opened(tmp_path, _search(3)) as ledger:
        first = ledger.claim()
        assert first is not None
        ledger.place(first.number, "run0")
        ledger.fail(first.number, "the loss is nan")
        assert len(_finish(ledger)) == 2
    with _opened(tmp_path, _search(3)) as ledger:
        assert ledger.claim() is None
    with _opened(tmp_path, _search(3), retry=True) as ledger:
        again = ledger.claim()
        assert again is not None
        assert again.values == first.values
        assert ledger.place(again.number, "run0")
        ledger.complete(again.number, 1.0)
        assert ledger.claim() is None
        assert ledger.best() == ledger.trials()[again.number]
        told = [(trial.state, trial.error) for trial in ledger.trials()]
    assert told == [(State.FAILED, "the loss is nan"), *[(State.COMPLETE, None)] * 3]
    with _opened(tmp_path, _search(3), retry=True) as ledger:
        assert ledger.claim() is None


def test_the_best_trial_is_the_largest_or_the_least(tmp_path: Path) -> None:
    for maximize, best in ((True, 1), (False, 0)):
        with _search(3).open(tmp_path / str(maximize), SPACE, maximize=maximize, about={}, retry=False) as ledger:
            assert ledger.best() is None
            for score in (0.1, 0.3, 0.2):
                trial = ledger.claim()
                assert trial is not None
                ledger.complete(trial.number, score)
            found = ledger.best()
            assert found is not None
            assert found.number == best


def _report(folder: Path, search: Optuna, ledger: Ledger, scores: list[float]) -> int | None:
    """Tell the scores of a new trial; the epoch that it was stopped after, or None."""
    trial = ledger.claim()
    assert trial is not None
    reporter = search.reporter(folder, trial.number)
    assert reporter is not None
    for epoch, score in enumerate(scores, start=1):
        if reporter.should_stop(score, epoch=epoch):
            ledger.prune(trial.number)
            return epoch
    ledger.complete(trial.number, scores[-1])
    return None


def test_the_median_of_the_others_stops_what_is_worse_after_the_warm_up(tmp_path: Path) -> None:
    search = _search(10, pruner=Median(startup_trials=2, warmup_epochs=2))
    with _opened(tmp_path, search) as ledger:
        assert _report(tmp_path, search, ledger, [0.5, 0.6, 0.7, 0.8]) is None
        assert _report(tmp_path, search, ledger, [0.1, 0.1, 0.1, 0.1]) is None
        assert _report(tmp_path, search, ledger, [0.2, 0.2, 0.2, 0.2]) == 2
        assert _report(tmp_path, search, ledger, [0.2, 0.4, 0.9, 0.9]) is None
        assert [(trial.state, trial.epoch) for trial in ledger.trials()] == [
            (State.COMPLETE, 4),
            (State.COMPLETE, 4),
            (State.PRUNED, 2),
            (State.COMPLETE, 4),
        ]


def test_a_score_that_a_run_tells_again_after_an_interruption_is_no_other(tmp_path: Path) -> None:
    search = _search(2, pruner=Median(startup_trials=0, warmup_epochs=0))
    with _opened(tmp_path, search) as ledger:
        trial = ledger.claim()
        assert trial is not None
        for _ in range(2):
            reporter = search.reporter(tmp_path, trial.number)
            assert reporter is not None
            assert not reporter.should_stop(0.5, epoch=1)


def test_hyperband_trains_few_to_the_end(tmp_path: Path) -> None:
    search = _search(9, sampler=Random(), pruner=Hyperband(min_epochs=1, max_epochs=3, reduction_factor=3))
    with _opened(tmp_path, search) as ledger:
        ends = [_report(tmp_path, search, ledger, [score] * 3) for score in (0.9, *(i / 100 for i in range(8)))]
    assert ends[0] is None
    assert 3 <= sum(end is not None for end in ends) < 9


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: _search(None), r"search\.n_trials needs a whole number from 1 on, e\.g"),
        (lambda: _search(0), r"search\.n_trials needs .* got 0"),
        (lambda: Tpe(startup_trials=0, candidates=24), r"search\.sampler\.startup_trials needs .* got 0"),
        (lambda: Tpe(startup_trials=1, candidates=0), r"search\.sampler\.candidates needs .* got 0"),
        (lambda: Median(startup_trials=-1, warmup_epochs=0), r"search\.pruner\.startup_trials needs .* got -1"),
        (lambda: Hyperband(min_epochs=1, max_epochs=9, reduction_factor=1), "reduction_factor needs .* got 1"),
        (lambda: Hyperband(min_epochs=3, max_epochs=2, reduction_factor=3), "max_epochs needs auto or .* got 2"),
    ],
)
def test_a_knob_with_a_wrong_value_is_refused(make: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        make()
