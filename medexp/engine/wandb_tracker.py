"""Weights & Biases: the run's figures, table of cases and pictures, with nothing of the machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from jaxtyping import UInt8

from medexp.core.errors import UsageError
from medexp.core.wandb_artifacts import RUN_TYPE, run_artifact
from medexp.engine._overlay_errors import ErrorKind
from medexp.engine.log import LOGGER
from medexp.engine.overlays import ShownBox
from medexp.engine.tracking import Outcome, Picture, TrackedRun
from medexp.engine.wandb_session import Session, log_table, logged_files, open_run, remove_logs, resolved_mode

_MODES = ("auto", "online", "offline")
_LEAST_BOX = 0.01  # share of the picture from the middle to each side
_STEP_AXES = {"batch/*": "step", "train/*": "epoch", "val/*": "epoch"}


class WandbTracker:
    """A run with Weights & Biases, in its offline format where the service cannot be reached.

    wandb's own files go to the folder `wandb` of the run, to be sent later by `medexp wandb sync`. Its account of the
    machine (user, host, program, command line, working folder, installed packages, git remote), the terminal's output
    and the code are left out.

    Args:
        project: Name of the project.
        entity: User or team; None for the user's default.
        mode: "online", "offline", or "auto": online where a key is known (WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE or
            netrc), else offline; WANDB_MODE is followed.
        tags: Tags beside those of task, dataset, model and loss.
        system_metrics: Whether use of processors, memory and network is told.
        timeout_s: How long the service may take to answer before the run is kept offline, in seconds.

    Raises:
        UsageError: A knob has a value that has no meaning.
    """

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: str,
        tags: Sequence[str],
        system_metrics: bool,
        timeout_s: float,
    ) -> None:
        if mode not in _MODES:
            raise UsageError(f"tracking.tracker.mode needs {', '.join(_MODES)}, got {mode!r}")
        if not timeout_s > 0:
            raise UsageError(f"tracking.tracker.timeout_s needs a value above 0, got {timeout_s}")
        self.project = project
        self.entity = entity
        self.mode = mode
        self.tags = tuple(tags)
        self.system_metrics = system_metrics
        self.timeout_s = timeout_s
        self._run: Any = None

    def start(self, run: TrackedRun) -> None:
        """Open the run, or go on with it.

        Args:
            run: What is known of it.
        """
        mode = resolved_mode(self.mode)
        if mode == "disabled":
            return
        self._run = open_run(self._session(run), mode)
        for pattern, axis in _STEP_AXES.items():
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(pattern, step_metric=axis)
        log_table(self._run, "model", run.layers)
        self._run.summary["parameters"] = int(run.layers["parameters"].iloc[0])
        where = f"offline; medexp wandb sync {quote(str(run.folder.parent))} sends it"
        LOGGER.info("tracked by Weights & Biases: %s", where if self._run.offline else self._run.url)

    def log(self, values: Mapping[str, float]) -> None:
        """Figures of a step or of an epoch.

        Args:
            values: With the key "step" or "epoch", which is their axis.
        """
        if self._run is not None:
            self._run.log(dict(values))

    def show(self, picture: Picture) -> None:
        """A picture with layers of classes and boxes for reference and prediction, and one of errors.

        Args:
            picture: The picture.
        """
        if self._run is None:
            return
        import wandb

        names = dict(enumerate(picture.slice.classes, start=1))
        image = wandb.Image(
            _square(picture.grey, picture.slice.pixel_mm),
            caption=f"{picture.case} {picture.slice.caption}".strip(),
            masks=_masks(picture, names),
            boxes=_boxes(picture, names),
        )
        self._run.log({f"overlays/{picture.case}/{picture.number}": image})

    def finish(self, exit_code: int, outcome: Outcome) -> None:
        """Tell the results and close the run.

        Args:
            exit_code: 0 for a finished run.
            outcome: What came out.
        """
        if self._run is None:
            return
        self._run.summary["status"] = outcome.status
        for kind, values in (("results", outcome.results), ("validation", outcome.validation)):
            for metric, by_label in values.items():
                for label, value in by_label.items():
                    self._run.summary[f"{kind}/{metric}/{label}"] = value
        if outcome.cases is not None:
            log_table(self._run, "cases", outcome.cases)
        folder = Path(self._run.dir).parent
        record = logged_files(
            self._run, run_artifact(self._run.id), outcome.files, type=RUN_TYPE, metadata=_known(outcome.files)
        )
        with record:
            self._run.finish(exit_code=exit_code)
        self._run = None
        remove_logs(folder)

    def abandon(self) -> None:
        """Stop wandb's service, which may be broken, so that the next run of this process gets a new one."""
        import wandb

        self._run = None
        wandb.teardown()

    def _session(self, run: TrackedRun) -> Session:
        return Session(
            project=self.project,
            entity=self.entity,
            folder=run.folder,
            group=run.study,
            job_type="train",
            name=run.name,
            tags=(*run.tags, *self.tags),
            config=run.config,
            id=run.id,
            system_metrics=self.system_metrics,
            timeout_s=self.timeout_s,
        )


def _known(files: Mapping[str, bytes]) -> dict[str, Any]:
    """What others find a run's record by without fetching it."""
    record = json.loads(files["run.json"]) if files else {}
    return {key: record[key] for key in ("study", "axes", "started") if key in record}


def _masks(picture: Picture, names: Mapping[int, str]) -> dict[str, Any]:
    shown = picture.slice
    layers = {
        "prediction": (shown.prediction, names),
        "reference": (shown.reference, names),
        "error": (shown.errors, {kind.value: kind.words for kind in ErrorKind}),
    }
    return {
        who: {"mask_data": _square(numbers.astype(np.uint8), shown.pixel_mm), "class_labels": dict(labels)}
        for who, (numbers, labels) in layers.items()
        if numbers is not None
    }


def _square(pixels: UInt8[np.ndarray, "rows columns"], pixel_mm: tuple[float, float]) -> UInt8[np.ndarray, "r c"]:
    """The same picture with pixels that are as high as wide, as wandb shows them; each is repeated, none is mixed."""
    finest = min(pixel_mm)
    stretched = [max(1, round(n * size / finest)) for n, size in zip(pixels.shape, pixel_mm, strict=True)]
    rows, columns = (np.arange(m) * n // m for n, m in zip(pixels.shape, stretched, strict=True))
    return pixels[np.ix_(rows, columns)]


def _boxes(picture: Picture, names: Mapping[int, str]) -> dict[str, Any]:
    of = {"prediction": picture.slice.predicted_boxes, "reference": picture.slice.referred_boxes}
    return {
        who: {"box_data": [_box(box) for box in boxes], "class_labels": dict(names)}
        for who, boxes in of.items()
        if boxes
    }


def _box(box: ShownBox) -> dict[str, Any]:
    """A box as wandb has it; a place without extent gets one that can be seen."""
    least = _LEAST_BOX if (box.left, box.top) == (box.right, box.bottom) else 0.0
    return {
        "position": {
            "minX": max(box.left - least, 0.0),
            "maxX": min(box.right + least, 1.0),
            "minY": max(box.top - least, 0.0),
            "maxY": min(box.bottom + least, 1.0),
        },
        "class_id": box.number,
        "scores": {"score": box.score},
    }
