"""What the run of a trial tells Optuna of its validations, in its own process."""

from __future__ import annotations

import logging
from pathlib import Path

from medexp.search.optuna_ledger import load, stored
from medexp.search.pruners import Pruner

LOGGER = logging.getLogger(__name__)


class OptunaReporter:
    """Tells the validation scores of a trial, and asks whether it is to be stopped.

    Args:
        folder: The study's folder.
        trial: The trial's number.
        metric: Name of the metric whose mean is told; None for the first.
        pruner: When a trial is stopped.
    """

    def __init__(self, folder: Path, trial: int, *, metric: str | None, pruner: Pruner) -> None:
        self.folder = folder
        self.trial = trial
        self.metric = metric
        self.pruner = pruner

    def should_stop(self, score: float, *, epoch: int) -> bool:
        """Tell a score, unless it was told before the run was interrupted.

        Args:
            score: The score.
            epoch: Epochs trained so far.

        Returns:
            Whether the trial is to be stopped; not where the file of the search cannot be read or written.
        """
        import optuna

        try:
            with stored(self.folder) as storage:
                study = load(storage, pruner=self.pruner.build())
                (known,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == self.trial)
                trial = optuna.trial.Trial(study, known._trial_id)
                if epoch not in known.intermediate_values:
                    trial.report(score, epoch)
                return bool(trial.should_prune())
        except optuna.exceptions.StorageInternalError as error:
            LOGGER.warning("the search was not asked whether to stop: %s", " ".join(str(error).split()))
            return False
