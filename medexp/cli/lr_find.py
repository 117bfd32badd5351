"""`medexp lr-find`: a learning rate from a short training in which it rises."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from medexp.cli.console import console
from medexp.cli.data_fingerprint import composed

if TYPE_CHECKING:
    from medexp.engine.lr_find import Curve

_ROWS = 15
_EPILOG = """EXPERIMENT and OVERRIDES are those of `medexp train`, e.g.
  medexp lr-find experiments/quickstart.yaml optimizer=lion
  medexp lr-find quickstart --steps 200 --smallest 1e-6 --largest 1 -o FOLDER

The suggestion is for the optimizer as it is configured. Nothing of the training is kept; the same seed gives the same
curve. Exit codes: 0 good, 1 the loss never falls or diverges at once, 2 wrong use."""


def lr_find(words: Sequence[str]) -> int:
    """Look for a learning rate for what the words describe.

    Args:
        words: Words after `medexp lr-find`.

    Returns:
        0, or 1 where the loss never falls.

    Raises:
        UsageError: The words describe nothing that can be trained.
        MedexpError: The loss diverges at once.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    config = composed(arguments.words, arguments.config_dir)
    from medexp.engine.lr_find import find_learning_rate

    curve = find_learning_rate(config, steps=arguments.steps, smallest=arguments.smallest, largest=arguments.largest)
    curve.write(arguments.output)
    _print(curve, console())
    print(f"written to {arguments.output / 'lr_find.json'} and lr_find.png")
    return 1 if curve.suggestion is None else 0


def _print(curve: Curve, console: Console) -> None:
    from medexp.engine.lr_find import RULE

    table = Table(box=None, pad_edge=False)
    for title in ("learning rate", "loss", "smoothed", ""):
        table.add_column(title)
    last, steepest, lowest = len(curve.lr) - 1, curve.steepest, curve.lowest
    marked = {lowest: "lowest", **({} if steepest is None else {steepest: "steepest"})}
    for step in sorted({round(row * last / (_ROWS - 1)) for row in range(_ROWS)} | marked.keys()):
        values = (f"{curve.lr[step]:.2e}", f"{curve.loss[step]:.4f}", f"{curve.smoothed[step]:.4f}")
        table.add_row(*values, marked.get(step, ""))
    console.print(table)
    if curve.suggestion is None:
        console.print("\nno suggestion: the loss falls nowhere in this range", highlight=False)
    else:
        console.print(f"\noptimizer.lr={curve.suggestion:.2g}: {RULE}", highlight=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp lr-find",
        description="Train for some steps while the learning rate rises by the same factor at each (Smith, 2017), and "
        "suggest the one at which the loss falls most.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[EXPERIMENT] [OVERRIDES]", help="as of `medexp train`")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="optimiser steps (default: 100)")
    parser.add_argument("--smallest", type=float, default=1e-6, metavar="LR", help="of the first step (1e-6)")
    parser.add_argument("--largest", type=float, default=1.0, metavar="LR", help="of the last step (1.0)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("lr_find"), metavar="FOLDER", help="where table and plot are written"
    )
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="your own options, laid out like conf/")
    return parser
