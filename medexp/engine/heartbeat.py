"""How far a run is, for whoever looks from outside: `medexp status`, the table of a sweep."""

from __future__ import annotations

import math
import os
from dataclasses import asdict

from medexp.core.files import write_json
from medexp.core.record import RunFolder, now
from medexp.engine.pace import Status
from medexp.engine.watch import Display, Moment, Watch

_EVERY_S = 5.0


class Heartbeat(Watch):
    """Keeps a run's progress.json up to date, every five seconds at most.

    Args:
        folder: The run's folder.
        metric: Key of the trainer's `callback_metrics` that is told beside the loss.
    """

    def __init__(self, folder: RunFolder, *, metric: str | None) -> None:
        super().__init__(metric=metric)
        self.folder = folder

    def _new_display(self) -> Display:
        return _File(self.folder)


class _File:
    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._shown_s = -math.inf

    def due(self, moment: Moment, *, now_s: float) -> bool:
        return moment is Moment.END or now_s - self._shown_s >= _EVERY_S

    def show(self, status: Status, *, now_s: float) -> None:
        known = {name: value for name, value in asdict(status).items() if value is not None}
        write_json(self._folder.progress, known | {"at": now(), "process": os.getpid()})
        self._shown_s = now_s

    def close(self) -> None:
        pass
