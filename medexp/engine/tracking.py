"""What a tracker of experiments is told of a run: figures, and of patients nothing that the user has not allowed."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from jaxtyping import UInt8
from pytorch_lightning.utilities.model_summary.model_summary import ModelSummary

from medexp.core.errors import UsageError
from medexp.core.record import Record, RunFolder
from medexp.core.types import Case, Image, Prediction
from medexp.engine.log import LOGGER
from medexp.engine.overlays import ShownSlice, shown_slices
from medexp.engine.shared_record import config_columns, hashed, shared_record, told_config

_TAGGED = ("task", "dataset", "model", "loss")


@dataclass(frozen=True)
class TrackedRun:
    """What is known of a run when it starts.

    Attributes:
        folder: Where the tracker's own files go.
        id: The run's id with the tracker, the same after a resumption.
        study: Name of the study.
        name: The run's own overrides, readable.
        tags: Options of task, dataset, model and loss.
        config: The resolved configuration, plain, without places and what only changes pictures.
        layers: Name, type and number of parameters of the network's parts.
    """

    folder: Path
    id: str
    study: str
    name: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]
    layers: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Picture:
    """A plane of a case that may be shown.

    Attributes:
        case: The case's id as the tracker may know it.
        number: Which of the case's planes this is, from 0 on.
        grey: Intensities from 0 to 255.
        slice: What is shown over it.
    """

    case: str
    number: int
    grey: UInt8[np.ndarray, "rows columns"]
    slice: ShownSlice


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came out of a run.

    Attributes:
        status: State of the run.
        results: Aggregated value by metric and label.
        cases: A line per case; None where the run did not come that far.
        files: Content of the record's files by name, for others' eyes; empty unless the run finished.
        validation: Values like the results over the validation cases, where they are known.
    """

    status: str
    results: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    cases: pd.DataFrame | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    validation: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


@runtime_checkable
class Tracker(Protocol):
    """Where a run is tracked. Each method may fail or take long; the run goes on without it."""

    def start(self, run: TrackedRun) -> None:
        """Open the run, or go on with it."""

    def log(self, values: Mapping[str, float]) -> None:
        """Figures of a step or of an epoch, with the key "step" or "epoch"."""

    def show(self, picture: Picture) -> None:
        """A picture."""

    def finish(self, exit_code: int, outcome: Outcome) -> None:
        """Close the run; nothing follows."""

    def abandon(self) -> None:
        """Let go of what is left after a failure; nothing follows."""


class Tracking:
    """Tells a tracker of a run in a thread of its own, so that it can neither fail nor delay the run.

    Args:
        tracker: The tracker; None for none.
        media: Whether pictures are told: True, False, or "auto" for those of public or synthetic datasets only.
        case_ids: "hashed", or "plain".
        every_steps: Every how many optimiser steps the loss is told.
        patience_s: How long the end of a run waits for the tracker, in seconds.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    def __init__(
        self, *, tracker: Tracker | None, media: bool | str, case_ids: str, every_steps: int, patience_s: float
    ) -> None:
        if media not in (True, False, "auto"):
            raise UsageError(f"tracking.media needs auto, true or false, got {media!r}")
        if case_ids not in ("hashed", "plain"):
            raise UsageError(f"tracking.case_ids needs hashed or plain, got {case_ids!r}")
        if every_steps < 1:
            raise UsageError(f"tracking.every_steps needs a value >= 1, got {every_steps}")
        if not patience_s > 0:
            raise UsageError(f"tracking.patience_s needs a value above 0, got {patience_s}")
        self.tracker = tracker
        self.media = media
        self.case_ids = case_ids
        self.every_steps = every_steps
        self.patience_s = patience_s
        self._rename: Mapping[str, str] = {}
        self._shows = False
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is a tracker."""
        return self.tracker is not None

    def names_of(self, cases: Sequence[Case], *, salt: str) -> dict[str, str]:
        """What the tracker may know each case and each group by.

        Args:
            cases: All cases of the dataset.
            salt: The study's own secret, in hexadecimal digits.

        Returns:
            A name by id.
        """
        ids = {name for case in cases for name in (case.case_id, case.group)}
        return {name: name if self.case_ids == "plain" else hashed(name, salt=salt) for name in sorted(ids)}

    def begin(self, run: TrackedRun, *, public: bool, rename: Mapping[str, str]) -> None:
        """Tell the tracker that a run starts.

        Args:
            run: The run.
            public: Whether the dataset may be shown to anyone.
            rename: What the tracker may know each case and each group by.
        """
        if self.tracker is None:
            return
        self._rename = rename
        self._shows = self.media is True or (self.media == "auto" and public)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()
        self._tell(self.tracker.start, run)

    def batches(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tell the loss of the steps that are due.

        Args:
            rows: Rows of steps.jsonl.
        """
        if self.tracker is None:
            return
        for row in rows:
            if "loss" in row and row["step"] % self.every_steps == 0:
                terms = {f"batch/{name}": term for name, term in row["terms"].items()}
                self._log({**terms, "batch/loss": row["loss"], "batch/lr": row["lr"], "step": row["step"]})

    def epoch(self, line: Mapping[str, Any]) -> None:
        """Tell an epoch.

        Args:
            line: A line of history.csv, with the key "epoch".
        """
        if self.tracker is not None:
            self._log(line)

    def case(self, image: Image, prediction: Prediction, reference: Prediction | None, *, channel: int = 0) -> None:
        """Tell the pictures of a case, where they may be shown.

        Args:
            image: The case.
            prediction: Its prediction.
            reference: Its reference.
            channel: The image channel that is shown.
        """
        if self.tracker is None or not self._shows:
            return
        for number, shown in enumerate(shown_slices(image, prediction, reference, channel=channel)):
            grey = np.round(shown.picture * 255).astype(np.uint8)
            self._tell(self.tracker.show, Picture(self._rename[prediction.case_id], number, grey, shown))

    def end(self, exit_code: int, outcome: Outcome, *, record: RunFolder | None = None) -> None:
        """Tell how the run ended, and wait for the tracker no longer than allowed.

        Args:
            exit_code: 0 for a finished run.
            outcome: What came out, cases and groups by their own ids.
            record: The folder of a finished run, whose record is told too.
        """
        if self.tracker is None or self._thread is None:
            return
        if outcome.cases is not None:
            renamed = {key: outcome.cases[key].map(self._rename) for key in ("case_id", "group")}
            outcome = replace(outcome, cases=outcome.cases.assign(**renamed))
        self._tell(self._finish, exit_code, outcome, record)
        self._calls.put(None)
        self._thread.join(self.patience_s)
        if self._thread.is_alive():
            LOGGER.warning(
                "the tracker has not answered for %g s; the run's own record is complete, and tracking.patience_s "
                "waits longer",
                self.patience_s,
            )
        self._thread = None

    def _finish(self, exit_code: int, outcome: Outcome, record: RunFolder | None) -> None:
        assert self.tracker is not None
        if record is not None:
            try:
                outcome = replace(outcome, files=shared_record(record, rename=self._rename))
            except Exception as error:
                LOGGER.warning("the tracker is not told the run's record: %s: %s", type(error).__name__, error)
                LOGGER.debug("the record cannot be told", exc_info=True)
        self.tracker.finish(exit_code, outcome)

    def _log(self, values: Mapping[str, Any]) -> None:
        assert self.tracker is not None
        self._tell(self.tracker.log, {key: value for key, value in values.items() if _is_number(value)})

    def _tell(self, call: Callable[..., None], *arguments: Any) -> None:
        self._calls.put(lambda: call(*arguments))

    def _work(self) -> None:
        """Make the calls one after the other, up to the first that fails."""
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:
                LOGGER.warning(
                    "tracking failed and ends here; the run's own record is complete: %s: %s",
                    type(error).__name__,
                    " ".join(str(error).split()),
                )
                LOGGER.debug("tracking failed", exc_info=True)
                self._abandon()
                return

    def _abandon(self) -> None:
        assert self.tracker is not None
        try:
            self.tracker.abandon()
        except Exception:
            LOGGER.debug("the tracker could not be abandoned", exc_info=True)


def described(
    record: Record, config: Mapping[str, Any], module: pl.LightningModule, *, folder: Path, rename: Mapping[str, str]
) -> TrackedRun:
    """What a tracker may know of a run.

    Args:
        record: The run's record, with an id for the tracker.
        config: The resolved configuration, plain.
        module: The network with its task.
        folder: Where the tracker's own files go.
        rename: What stands for the id of each case and group.

    Returns:
        The description, without paths and ids of cases.
    """
    assert record.wandb_id is not None
    options = config["options"]
    told = told_config(config, record, rename=rename)
    return TrackedRun(
        folder=folder,
        id=record.wandb_id,
        study=record.study,
        name=", ".join(f"{key}={value}" for key, value in sorted(told["axes"].items())) or record.study,
        tags=tuple(options[group] for group in _TAGGED if group in options),
        config={**config_columns(told), "versions": record.versions, "hardware": record.hardware},
        layers=_layers(module),
    )


def _layers(module: pl.LightningModule) -> pd.DataFrame:
    """The parts of the network down to the second level; the first line is the whole."""
    summary = ModelSummary(module, max_depth=2)
    columns = {"layer": summary.layer_names, "type": summary.layer_types, "parameters": summary.param_nums}
    layers = pd.DataFrame(columns)
    whole = pd.DataFrame([{"layer": "", "type": type(module).__name__, "parameters": summary.total_parameters}])
    return pd.concat([whole, layers], ignore_index=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
