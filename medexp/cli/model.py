"""`medexp model SUBCOMMAND`: what concerns networks. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Sequence

from medexp.cli.subcommands import run_subcommand

_KNOWN = {
    "list": ("medexp.cli.model_list", "model_list", "the networks, and whether they are for 2D or 3D"),
    "show": ("medexp.cli.model_show", "model_show", "parameters, operations, memory, receptive field, and the patch"),
}


def model_command(words: Sequence[str]) -> int:
    """Run a subcommand.

    Args:
        words: Words after `medexp model`.

    Returns:
        The exit code.
    """
    return run_subcommand("model", _KNOWN, words)
