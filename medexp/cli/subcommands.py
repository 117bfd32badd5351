"""Commands of two words, `medexp data list`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module

from medexp.core.errors import UsageError, did_you_mean


def run_subcommand(command: str, known: Mapping[str, tuple[str, str, str]], words: Sequence[str]) -> int:
    """Run the second word of a command.

    Args:
        command: The first word.
        known: Module, function and one line of help of each second word.
        words: Words after the first.

    Returns:
        The exit code.

    Raises:
        UsageError: There is no such second word.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(command, known))
        return 0
    if words[0] not in known:
        raise UsageError(f"no command {command} {words[0]}{did_you_mean(words[0], known)} (known: {', '.join(known)})")
    module, function, _ = known[words[0]]
    code: int = getattr(import_module(module), function)(words[1:])
    return code


def _help(command: str, known: Mapping[str, tuple[str, str, str]]) -> str:
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in known.items()]
    hint = f"`medexp {command} COMMAND --help` explains each."
    return "\n".join([f"usage: medexp {command} COMMAND [ARGUMENTS]", "", "commands:", *lines, "", hint])
