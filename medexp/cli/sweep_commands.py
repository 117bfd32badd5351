"""`medexp sweep SUBCOMMAND`: sweeps that others run. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from collections.abc import Sequence

from medexp.cli.subcommands import run_subcommand

SUBCOMMANDS = {
    "export": ("medexp.cli.sweep_export", "export_command", "write a sweep of Weights & Biases"),
}


def sweep_command(words: Sequence[str]) -> int:
    """Run the second word of `medexp sweep`.

    Args:
        words: Words after `medexp sweep`.

    Returns:
        The exit code.
    """
    return run_subcommand("sweep", SUBCOMMANDS, words)
