"""`medexp data SUBCOMMAND`: what concerns datasets. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec

from medexp.core.errors import UsageError, did_you_mean

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

    Raises:
        UsageError: There is no such subcommand.
    """
    known = subcommands()
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(known))
        return 0
    if words[0] not in known:
        raise UsageError(f"no command data {words[0]}{did_you_mean(words[0], known)} (known: {', '.join(known)})")
    module, function, _ = known[words[0]]
    code: int = getattr(import_module(module), function)(words[1:])
    return code


def _help(known: Mapping[str, tuple[str, str, str]]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in known.items()]
    hint = "`medexp data COMMAND --help` explains each."
    return "\n".join(["usage: medexp data COMMAND [ARGUMENTS]", "", "commands:", *lines, "", hint])
