"""Processes that begin with everything heavy imported already: forked from a server that has loaded it once.

Loading torch, MONAI and Lightning takes seconds, a fork of a process that has them some hundredths of one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_STREAMS = (1, 2)  # standard output and standard error
_LOADED = "medexp.launchers.loaded"
# The server must not open CUDA: what it opened could not be used in its forks.
_NO_CUDA_CONTEXT = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def warm_up(*also: str) -> None:
    """Let the server begin to load, without waiting for it.

    Args:
        *also: Modules that it loads beside the usual ones, where it does not run yet.
    """
    _CONTEXT.set_forkserver_preload([_LOADED, *also])
    before = {name: os.environ.get(name) for name in _NO_CUDA_CONTEXT}
    os.environ.update(_NO_CUDA_CONTEXT)
    try:
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Fork:
    """A function in a process of its own, in a session of its own, so that Ctrl-C does not reach it.

    It is asked to stop (SIGTERM) when the process that started it is gone.

    Args:
        function: Returns the exit code; importable by its name.
        arguments: Its arguments.
        environment: Variables beside those of this process.
        output: File that standard output and error are appended to; None lets them be.
    """

    def __init__(
        self,
        function: Callable[..., int],
        arguments: tuple[Any, ...],
        *,
        environment: Mapping[str, str] | None = None,
        output: Path | None = None,
    ) -> None:
        warm_up()
        variables = {**os.environ, **(environment or {})}
        self._process = _CONTEXT.Process(target=_begin, args=(function, arguments, variables, output), daemon=False)
        self._process.start()

    @property
    def sentinel(self) -> int:
        """Something that `wait_for` can wait for."""
        return self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, or to it and all that it started where it is killed."""
        if self._process.pid is None or self._process.exitcode is not None:
            return
        try:
            if number is signal.SIGKILL:
                os.killpg(self._process.pid, number)
            else:
                os.kill(self._process.pid, number)
        except ProcessLookupError:
            pass

    def end(self) -> None:
        """Take leave of a process that has ended."""
        self._process.join()


def wait_for(forks: list[Fork], *, timeout_s: float, connection: Connection | None = None) -> None:
    """Wait until one of several processes has ended, something was received, or the time is over."""
    wait([*(fork.sentinel for fork in forks), *([] if connection is None else [connection])], timeout=timeout_s)


def receiver() -> tuple[Connection, Connection]:
    """Both ends of a pipe: what reads here, and what writes in a fork."""
    return _CONTEXT.Pipe(duplex=False)


def _begin(
    function: Callable[..., int], arguments: tuple[Any, ...], variables: dict[str, str], output: Path | None
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with nullcontext() if output is None else redirect(output):
        code = function(*arguments)
    sys.exit(code)


@contextmanager
def redirect(output: Path) -> Iterator[None]:
    """Append what this process and those that it starts print to a file, for a while."""
    output.parent.mkdir(parents=True, exist_ok=True)
    before = [os.dup(number) for number in _STREAMS]
    with output.open("ab", buffering=0) as stream:
        for number in _STREAMS:
            os.dup2(stream.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, kept in zip(_STREAMS, before, strict=True):
            os.dup2(kept, number)
            os.close(kept)


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
