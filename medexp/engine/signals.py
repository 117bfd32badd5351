"""Asking a training to stop: it saves at the next batch boundary; asked twice it ends at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    @property
    def requested(self) -> bool:
        """Whether a stop was asked for."""
        return self.signal_name is not None

    def ask(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first is remembered, the second ends the process as it would without medexp."""
        if self.requested:
            raise KeyboardInterrupt
        self.signal_name = signal.Signals(number).name

    def install(self) -> None:
        """Become the handler of SIGTERM and Ctrl-C; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self.ask)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle SIGTERM and Ctrl-C for a while; other threads than the main one cannot and do not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
