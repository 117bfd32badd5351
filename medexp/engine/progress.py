"""How far a run is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys

from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column
from rich.text import Text

from medexp.core.errors import UsageError
from medexp.engine.pace import Status, format_status
from medexp.engine.watch import Display, Moment, Watch

_BAR_EVERY_S = 0.5


class _Bar:
    """One line at the foot of a terminal; what else is printed appears above it."""

    def __init__(self, console: Console) -> None:
        self._rich = RichProgress(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            console=console,
            auto_refresh=False,
            expand=True,
            # What the user sends to a file must reach it.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._shown_s = -math.inf
        self._rich.start()

    def due(self, moment: Moment, *, now_s: float) -> bool:
        in_passing = moment in (Moment.BATCH_OF_FIT, Moment.BATCH_OF_EVALUATION)
        return not in_passing or now_s - self._shown_s >= _BAR_EVERY_S

    def show(self, status: Status, *, now_s: float) -> None:
        line = format_status(status)
        if self._task is None:
            self._task = self._rich.add_task(line)
        # An evaluation alone counts batches.
        done, total = (status.batch, status.batches) if status.step is None else (status.step, status.steps)
        self._rich.update(self._task, description=line, completed=done or 0, total=total)
        self._rich.refresh()
        self._shown_s = now_s

    def close(self) -> None:
        self._rich.stop()


class _Lines:
    """Lines for a log file: after an epoch, or during an evaluation alone, and not too many."""

    def __init__(self, console: Console, *, every_s: int | float) -> None:
        self._console = console
        self._every_s = every_s
        self._shown_s = -math.inf
        self._withheld = False

    def due(self, moment: Moment, *, now_s: float) -> bool:
        if moment is Moment.BATCH_OF_FIT:
            return False
        due = self._withheld if moment is Moment.END else now_s - self._shown_s >= self._every_s
        self._withheld = not due
        return due

    def show(self, status: Status, *, now_s: float) -> None:
        self._console.print(Text(format_status(status)), soft_wrap=True)
        self._shown_s = now_s

    def close(self) -> None:
        pass


class Progress(Watch, ProgressBar):
    """Shows epoch, step, loss, a metric, images in a second and the time left.

    A terminal gets a bar that is drawn at most twice a second; anything else gets one line per epoch.

    Args:
        metric: Key of the trainer's `callback_metrics` that is shown beside the loss.
        line_every_s: Seconds between two lines, at least; the last state is always printed.
        console: Where to; the standard error stream unless told.

    Raises:
        UsageError: `line_every_s` is negative.
    """

    def __init__(
        self, *, metric: str | None = None, line_every_s: int | float = 30.0, console: Console | None = None
    ) -> None:
        super().__init__(metric=metric)
        if line_every_s < 0:
            raise UsageError(f"line_every_s needs seconds of at least 0, got {line_every_s}")
        self._line_every_s = line_every_s
        self._console = console

    def enable(self) -> None:
        """Show from the next start of a stage on."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (other ranks, searches before the training)."""
        self._enabled = False
        self._close()

    def _new_display(self) -> Display:
        console = self._console or Console(stderr=True)
        return _Bar(console) if console.is_interactive else _Lines(console, every_s=self._line_every_s)
