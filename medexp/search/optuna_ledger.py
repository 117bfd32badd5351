"""The trials of a search in an SQLite file that survives the end of every process that writes it."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medexp.core.config import differences
from medexp.core.errors import UsageError
from medexp.search.pruners import Pruner
from medexp.search.samplers import Sampler
from medexp.search.space import Choices, Domain, Space
from medexp.search.trials import State, Trial

_FILE = "optuna.db"
_LOCK = ".search.lock"
_STUDY = "medexp"
# How long a process waits for another one that writes the file.
_PATIENCE_S = 60.0
# Attributes of a trial, and of the study.
_WORKER, _RUN, _ERROR, _RETRIES, _ABOUT = "worker", "run", "error", "retries", "about"


@contextmanager
def stored(folder: Path) -> Iterator[Any]:
    """Optuna's storage in a study's folder.

    Args:
        folder: The study's folder.

    Yields:
        The storage.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / _LOCK):  # of several processes one makes the tables
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{(folder / _FILE).resolve()}", engine_kwargs={"connect_args": {"timeout": _PATIENCE_S}}
        )
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def load(storage: Any, *, pruner: Any = None) -> Any:
    """Optuna's study of a storage, to be looked at and reported to."""
    import optuna

    return optuna.load_study(
        study_name=_STUDY, storage=storage, pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0)
    )


def distributions(space: Space) -> dict[str, Any]:
    """What may vary, in Optuna's terms."""
    return {key: _distribution(domain) for key, domain in space.items()}


def _distribution(domain: Domain) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if domain.whole:
        return IntDistribution(int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log)
    return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


def spelt_values(space: Space, drawn: Mapping[str, Any]) -> dict[str, str]:
    """Optuna's values as overrides spell them, in the order of the space."""
    return {key: domain.spelt(drawn[key]) for key, domain in space.items() if key in drawn}


def sampler_seed(seed: int, number: int) -> int:
    """The seed of a trial's own random numbers.

    Args:
        seed: Of the search.
        number: The trial's.

    Returns:
        A number of 32 bits.
    """
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=4).digest(), "big")


class OptunaLedger:
    """The trials of a search, see `Ledger`.

    Args:
        folder: The study's folder.
        space: What may vary.
        storage: Optuna's storage.
        n_trials: How many trials there are to be.
        seed: Of the search.
    """

    def __init__(self, folder: Path, space: Space, *, storage: Any, n_trials: int, seed: int) -> None:
        self.folder = folder
        self.space = space
        self.n_trials = n_trials
        self.seed = seed
        self._storage = storage
        self._lock = FileLock(folder / _LOCK)
        self._worker = secrets.token_hex(4)
        self._study: Any = None
        self._sampler: Any = None

    def begin(
        self,
        *,
        sampler: Sampler,
        pruner: Pruner,
        maximize: bool,
        about: Mapping[str, Any],
        queued: Sequence[Mapping[str, str]],
        retry: bool,
    ) -> None:
        """Begin the search, or find it begun.

        Args:
            sampler: How values are drawn.
            pruner: When a trial is stopped.
            maximize: Whether the largest score is the best.
            about: What the search is about.
            queued: Values that are tried in this order, once each, before any is drawn.
            retry: Queue the values of failed trials once more.

        Raises:
            UsageError: The folder holds a search about something else.
        """
        import optuna

        self._sampler = sampler
        with self._lock:
            self._study = optuna.create_study(
                storage=self._storage,
                study_name=_STUDY,
                direction="maximize" if maximize else "minimize",
                pruner=pruner.build(),
                load_if_exists=True,
            )
            self._check(json.loads(json.dumps(about)))
            for values in queued:
                self._study.enqueue_trial(self._drawn(values), skip_if_exists=True)
            if retry:
                self._queue_failed()

    def _check(self, about: dict[str, Any]) -> None:
        known = self._study.user_attrs.get(_ABOUT)
        if known is None:
            self._study.set_user_attr(_ABOUT, about)
            return
        found = differences(known, about)
        if found:
            listed = "\n  ".join(found)
            raise UsageError(
                f"{self.folder / _FILE} holds another search; what differs:\n  {listed}\n"
                "Take the change back, or give the new search a name of its own: study=NAME"
            )

    def _drawn(self, values: Mapping[str, str]) -> dict[str, Any]:
        """Values as Optuna has them."""
        return {
            key: value if isinstance(domain := self.space[key], Choices) else (int if domain.whole else float)(value)
            for key, value in values.items()
        }

    def _queue_failed(self) -> None:
        known = self._known()
        retried = {trial.user_attrs.get(_RETRIES) for trial in known}
        for trial in known:
            if _state(trial) is State.FAILED and trial.number not in retried:
                self._study.enqueue_trial(trial.params, user_attrs={_RETRIES: trial.number})

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be a worker: hold a lock, by which others see that this process is not gone."""
        path = self._lock_of(self._worker)
        with FileLock(path):
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _lock_of(self, worker: str) -> Path:
        return self.folder / f".search-{worker}.lock"

    def _is_gone(self, worker: str | None) -> bool:
        if worker is None or not self._lock_of(worker).exists():
            return True
        lock = FileLock(self._lock_of(worker), is_singleton=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
        self._lock_of(worker).unlink(missing_ok=True)
        return True

    def trials(self) -> list[Trial]:
        """All trials that were begun, in order."""
        return [self._as_trial(trial) for trial in self._known() if not _is_queued(trial)]

    def adopt(self) -> list[Trial]:
        """Open trials of workers that are gone, which are this worker's from now on."""
        with self._lock:
            found = [trial for trial in self._known() if _state(trial) is State.OPEN and not _is_queued(trial)]
            gone = [trial for trial in found if self._is_gone(trial.user_attrs.get(_WORKER))]
            return [self._taken(trial._trial_id, trial.number) for trial in gone]

    def claim(self) -> Trial | None:
        """A new trial for this worker; None where there are enough."""
        with self._lock:
            known = self._known()
            retried = {trial.user_attrs.get(_RETRIES) for trial in known}
            begun = [trial for trial in known if not _is_queued(trial) and trial.number not in retried]
            if len(begun) >= self.n_trials and not self._has_retries(known):
                return None
            trial = self._study.ask()
            return self._taken(trial._trial_id, trial.number)

    def _has_retries(self, known: Sequence[Any]) -> bool:
        return any(_is_queued(trial) and _RETRIES in trial.user_attrs for trial in known)

    def _taken(self, trial_id: int, number: int) -> Trial:
        """A trial of this worker with all its values; what a killed worker had not drawn yet is drawn now."""
        import optuna

        self._storage.set_trial_user_attr(trial_id, _WORKER, self._worker)
        self._study.sampler = self._sampler.seeded(sampler_seed(self.seed, number))
        trial = optuna.trial.Trial(self._study, trial_id)
        for key, domain in self.space.items():
            _suggest(trial, key, domain)
        return self._as_trial(self._storage.get_trial(trial_id))

    def place(self, number: int, run: str) -> bool:
        """Note the run's folder of a trial, and say whether the run is to be made, see `Ledger`."""
        with self._lock:
            known = self._known()
            own = known[number]
            self._storage.set_trial_user_attr(own._trial_id, _RUN, run)
            failed_before = own.user_attrs.get(_RETRIES)
            return not any(
                trial.user_attrs.get(_RUN) == run
                and trial.number not in (number, failed_before)
                and not (failed_before is not None and _state(trial) is State.FAILED)
                for trial in known
            )

    def complete(self, number: int, objective: float) -> None:
        """Note the score of a trial that has finished."""
        self._study.tell(number, objective)

    def prune(self, number: int) -> None:
        """Note that a trial was stopped by the pruner."""
        import optuna

        self._study.tell(number, state=optuna.trial.TrialState.PRUNED)

    def fail(self, number: int, error: str) -> None:
        """Note why a trial failed."""
        import optuna

        self._storage.set_trial_user_attr(self._known()[number]._trial_id, _ERROR, error)
        self._study.tell(number, state=optuna.trial.TrialState.FAIL)

    def best(self) -> Trial | None:
        """The trial with the best score, of equal ones the first; None where none is complete."""
        complete = [trial for trial in self.trials() if trial.objective is not None]
        sign = 1 if self._study.direction.name == "MAXIMIZE" else -1
        return max(complete, key=lambda trial: sign * (trial.objective or 0.0), default=None)

    def _known(self) -> list[Any]:
        known: list[Any] = self._study.get_trials(deepcopy=False)
        return known

    def _as_trial(self, trial: Any) -> Trial:
        state = _state(trial)
        return Trial(
            number=trial.number,
            values=spelt_values(self.space, trial.params),
            state=state,
            objective=trial.value if state is State.COMPLETE else None,
            run=trial.user_attrs.get(_RUN),
            epoch=trial.last_step,
            error=trial.user_attrs.get(_ERROR),
        )


def _suggest(trial: Any, key: str, domain: Domain) -> None:
    if isinstance(domain, Choices):
        trial.suggest_categorical(key, domain.values)
    elif domain.whole:
        trial.suggest_int(key, int(domain.low), int(domain.high), step=int(domain.step or 1), log=domain.log)
    else:
        trial.suggest_float(key, domain.low, domain.high, step=domain.step, log=domain.log)


def _state(trial: Any) -> State:
    known = {"COMPLETE": State.COMPLETE, "PRUNED": State.PRUNED, "FAIL": State.FAILED}
    return known.get(trial.state.name, State.OPEN)


def _is_queued(trial: Any) -> bool:
    return str(trial.state.name) == "WAITING"
