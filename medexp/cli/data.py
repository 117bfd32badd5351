"""`medexp data SUBCOMMAND`: what concerns datasets. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec

from medexp.cli.subcommands import run_subcommand

_KNOWN = {
    "list": ("medexp.cli.data_list", "data_list", "the named datasets: task, size, licence, and whether they are here"),
    "check": ("medexp.cli.data_check", "data_check", "find everything that is wrong with a dataset in one pass"),
    "fingerprint": ("medexp.cli.data_fingerprint", "data_fingerprint", "shapes, spacings, intensities, class sizes"),
    "plan": ("medexp.cli.data_plan", "data_plan", "patch, spacing and network that fit a dataset and the memory"),
    "fetch": ("medexp.cli.data_fetch", "data_fetch", "download a named dataset, or say where it is to be had"),
    "show": ("medexp.cli.data_show", "data_show", "draw cases with their annotation"),
}


def subcommands() -> Mapping[str, tuple[str, str, str]]:
    """Module, function and one line of help of each subcommand that is installed."""
    return {name: entry for name, entry in _KNOWN.items() if find_spec(entry[0]) is not None}


def data_command(words: Sequence[str]) -> int:
    """Run a subcommand.

    Args:
        words: Words after `medexp data`.

    Returns:
        The exit code.
    """
    return run_subcommand("data", subcommands(), words)
