"""A recorded run, to look at and to work with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from medexp.core.errors import RecordError
from medexp.core.instantiate import trust_folders
from medexp.core.record import Record, RunFolder
from medexp.engine.build import build
from medexp.engine.checkpoints import CheckpointFolder, load_checkpoint
from medexp.engine.module import Experiment


class Run:
    """What a run folder holds.

    Args:
        path: The folder, with run.json.
    """

    def __init__(self, path: str | Path) -> None:
        self.folder = RunFolder(Path(path))
        self.folder.read()

    def __repr__(self) -> str:
        return f"Run({str(self.folder.path)!r}, status={self.record.status.value})"

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def record(self) -> Record:
        """What run.json says now."""
        return self.folder.read()

    @property
    def results(self) -> dict[str, dict[str, float | None]]:
        """Aggregated value by metric and label."""
        return self.record.results

    @cached_property
    def config(self) -> DictConfig:
        """The resolved configuration."""
        config = OmegaConf.load(self.folder.config)
        assert isinstance(config, DictConfig)
        return config

    @property
    def evidence(self) -> pd.DataFrame:
        """A line per evidence row."""
        return _table(self.folder.evidence)

    @property
    def cases(self) -> pd.DataFrame:
        """A line per case, a column per metric and label."""
        return _table(self.folder.cases)

    @property
    def history(self) -> pd.DataFrame:
        """A line per epoch."""
        return _table(self.folder.history)

    def module(self) -> Experiment:
        """The trained network with its task, on the CPU, in evaluation mode.

        Returns:
            The module.

        Raises:
            RecordError: No intact checkpoint is left.
        """
        trust_folders(self.config.paths.modules)
        module = build(self.config).module
        load_results_checkpoint(module, self.folder, choice=self.config.trainer.checkpoint)
        return module.eval()


def load_run(path: str | Path) -> Run:
    """Open a run folder.

    Args:
        path: The folder, with run.json.

    Returns:
        The run.

    Raises:
        RecordError: There is no readable record.
    """
    return Run(path)


def load_results_checkpoint(module: Experiment, folder: RunFolder, *, choice: str) -> Path:
    """Load the weights that results are computed from: the last ones, or those of the best validation.

    Args:
        module: Gets the weights.
        folder: The run's folder.
        choice: "last" or "best".

    Returns:
        The checkpoint's file.

    Raises:
        RecordError: No intact checkpoint is left.
    """
    checkpoints = CheckpointFolder(folder.checkpoints)
    path = checkpoints.best() if choice == "best" else checkpoints.newest()
    if path is None:
        raise RecordError(f"{folder.checkpoints} holds no intact {choice} checkpoint; train again with on_change=new")
    module.load_state_dict(load_checkpoint(path)["state_dict"])
    return path


def _table(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise RecordError(f"{path} is not there; the run has not come that far")
    return pd.read_csv(path, dtype={"case_id": str, "group": str})
