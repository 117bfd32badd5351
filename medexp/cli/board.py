"""One table of all jobs while a study runs: live on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from medexp.cli.status import with_counts
from medexp.compare.status import FAILED, FINISHED, KILLED, PRUNED, RunState, read_run
from medexp.core.record import RunFolder

_EVERY_S = 1.0
# Jobs of which the table shows each; of more, those that are under way.
_MANY = 40


class Board:
    """Shows the jobs of a study.

    Args:
        folders: Of the jobs, in the order of the command.
        console: Where to.
    """

    def __init__(self, folders: Sequence[RunFolder], *, console: Console) -> None:
        self._folders = list(folders)
        self._console = console
        self._live: Live | None = None
        self._told: dict[RunFolder, str] = {}
        self._looked_s = 0.0

    def __enter__(self) -> Board:
        for state in self._states():
            self._told[state.folder] = state.status
        if self._console.is_interactive:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._look()
        if self._live is not None:
            self._live.stop()

    def add(self, folder: RunFolder) -> None:
        """Show another job from now on."""
        self._folders.append(folder)

    def tick(self) -> None:
        """Look at the jobs, once a second at most."""
        if time.monotonic() - self._looked_s >= _EVERY_S:
            self._look()

    def _look(self) -> None:
        self._looked_s = time.monotonic()
        states = self._states()
        if self._live is not None:
            shown = states if len(states) <= _MANY else [state for state in states if state.status not in (FINISHED,)]
            self._live.update(with_counts(shown[:_MANY]), refresh=True)
            return
        for state in states:
            if self._told.get(state.folder) != state.status:
                self._told[state.folder] = state.status
                self._console.print(_line(state), soft_wrap=True, highlight=False, markup=False)

    def _states(self) -> list[RunState]:
        return [state for folder in self._folders if (state := read_run(folder)) is not None]


def _line(state: RunState) -> str:
    """What happened to a job, on a line."""
    parts = [f"{state.name}: {state.status}"]
    if state.status == FINISHED:
        parts += [state.score, f"after {state.minutes:.1f} min"]
    elif state.status in (FAILED, KILLED, PRUNED):
        parts.append(state.reason)
    return "  ".join(filter(None, parts))
