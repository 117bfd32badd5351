"""`medexp data plan`: the network and the input that fit a dataset and a memory budget."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from medexp.cli.console import console, told_on_stderr
from medexp.cli.data_fingerprint import composed
from medexp.cli.overrides import parse
from medexp.cli.places import conf_folder

if TYPE_CHECKING:
    from medexp.data.plan import Plan

_PLANNED = ("dataset.patch_size", "dataset.batch_size", "dataset.preprocessing.spacing_mm")
_EPILOG = """EXPERIMENT and OVERRIDES are those of `medexp train`, e.g.
  medexp data plan dataset=msd dataset.root=FOLDER --memory-gb 12
  medexp data plan dataset=msd dataset.root=FOLDER dataset.patch_size=[64,64,64]

What the command line gives is kept; with model=auto so is what the experiment gives. Train with the plan by
  model=auto dataset.patch_size=auto dataset.batch_size=auto dataset.preprocessing.spacing_mm=auto

Exit codes: 0 good, 1 a case cannot be read, 2 wrong use, or a budget that nothing fits."""


def data_plan(words: Sequence[str]) -> int:
    """Plan a network for the dataset that the words describe.

    Args:
        words: Words after `medexp data plan`.

    Returns:
        0.

    Raises:
        UsageError: The words describe no dataset, or nothing fits the budget.
        DataError: Tells what is wrong with each case that cannot be read.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    config = composed(arguments.words, arguments.config_dir)
    typed = {override.key_or_group for override in parse([word for word in arguments.words if "=" in word]).parsed}
    _leave_to_plan(config, typed=typed, memory_gb=arguments.memory_gb)
    from medexp.data.fingerprint.configured import fingerprint_of
    from medexp.data.plan.configured import plan_of

    with told_on_stderr():
        fingerprint = fingerprint_of(config, learning=True)
    found = plan_of(config, fingerprint)
    _print(fingerprint.name, found, console())
    if arguments.json is not None:
        from medexp.core.files import write_json

        write_json(arguments.json, found.as_plain())
    return 0


def _leave_to_plan(config: DictConfig, *, typed: set[str], memory_gb: float | None) -> None:
    """Let a configuration with another model plan all that the command line does not give."""
    if "plan" not in config.model:
        config.model = OmegaConf.load(conf_folder() / "model" / "auto.yaml")
        for key in _PLANNED:
            if key not in typed:
                OmegaConf.update(config, key, "auto")
    if memory_gb is not None:
        config.model.plan.memory_gb = memory_gb


def _print(name: str, plan: Plan, console: Console) -> None:
    for reason in plan.reasons:
        console.print(reason, highlight=False)
    knobs = plan.model_knobs()
    chosen = {
        "dataset.preprocessing.spacing_mm": None if plan.spacing_mm is None else list(plan.spacing_mm),
        "dataset.patch_size": list(plan.patch_size),
        "dataset.batch_size": plan.batch_size,
        **{f"model.{knob}": value for knob, value in knobs.items()},
    }
    console.print()
    for key, value in chosen.items():
        console.print(f"{key}={'null' if value is None else value}".replace(", ", ","), highlight=False, markup=False)
    normalised = ", ".join(f"{channel} {scheme}" for channel, scheme in plan.normalisation.items())
    console.print(
        f"\n{name}: {plan.network.weights / 1e6:.2f} million weights, a step takes about {plan.step_gb:.2f} GB; "
        f"normalisation: {normalised}",
        highlight=False,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp data plan",
        description="Spacing, patch, batch and levels of a DynUNet by the rules of nnU-Net, from the shapes, spacings "
        "and regions of the cases that one may learn from.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="[EXPERIMENT] [OVERRIDES]", help="as of `medexp train`")
    memory = "memory of the GPU, or of the process where a CPU computes (default: that of model.plan.memory_gb)"
    parser.add_argument("--memory-gb", type=float, metavar="GB", help=memory)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the plan as JSON")
    parser.add_argument("-cd", "--config-dir", type=Path, metavar="DIR", help="your own options, laid out like conf/")
    return parser
