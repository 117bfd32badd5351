"""`medexp sweep export`: a sweep of Weights & Biases, whose agents run `medexp train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from medexp.cli.composition import Composer
from medexp.cli.metric_directions import directions
from medexp.cli.overrides import is_searchs
from medexp.cli.search import check_space
from medexp.core.errors import UsageError, did_you_mean
from medexp.core.files import write_text
from medexp.launchers.forks import warm_up
from medexp.search.space import Choices, Domain, Space

_METHODS = ("grid", "random", "bayes")
_HELP = """Write a sweep of Weights & Biases. `wandb sweep FILE` registers it, `wandb agent ID` runs it: each
run is `medexp train EXPERIMENT KEY=VALUE ...`, found and recorded like any other. The agents choose by the validation
cases (summary validation/METRIC/mean)."""


def export_command(words: Sequence[str]) -> int:
    """Write a sweep of Weights & Biases.

    Args:
        words: Words after `medexp sweep export`.

    Returns:
        0.

    Raises:
        UsageError: The words describe nothing that can be swept so.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    named = [word for word in arguments.words if "=" not in word and not word.startswith("~")]
    if len(named) > 1:
        raise UsageError(f"one experiment at a time, got {', '.join(named)}; overrides read KEY=VALUE")
    overrides = [word for word in arguments.words if word not in named]
    warm_up()
    composer = Composer(named[0] if named else None, overrides, config_dir=arguments.config_dir)
    text = yaml.safe_dump(sweep_of(composer, named, arguments), sort_keys=False, allow_unicode=True, width=120)
    if arguments.output is None:
        sys.stdout.write(text)
    else:
        write_text(arguments.output, text)
        print(f"written to {arguments.output}; wandb sweep {arguments.output} registers it", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="medexp sweep export", description=_HELP)
    parser.add_argument("words", nargs="*", metavar="EXPERIMENT or OVERRIDE", help="as of medexp train -m")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: standard output)")
    parser.add_argument("--method", choices=_METHODS, help="default: grid where all values are listed, else bayes")
    parser.add_argument("--metric", help="whose mean is searched for (default: the first of metrics)")
    parser.add_argument("--runs", type=int, help="runs in all (default: no limit)")
    parser.add_argument("-cd", "--config-dir", help="your own options, laid out like conf/")
    return parser


def sweep_of(composer: Composer, experiment: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    """The sweep, as its YAML file says it.

    Args:
        composer: The experiment and the overrides.
        experiment: The experiment as it was typed, or nothing.
        arguments: The flags.

    Returns:
        Plain values.

    Raises:
        UsageError: It cannot be swept so.
    """
    space = composer.sweep.space()
    lists_all = all(domain.listed is not None for domain in space.values())
    method = arguments.method or ("grid" if lists_all else "bayes")
    check_space(space, lucky=method == "grid")
    if method == "grid" and not lists_all:
        raise UsageError("--method grid needs values, and an interval has too many; choose bayes or random")
    config = composer.compose_trial({key: domain.probe for key, domain in space.items()}, number=0)
    known = directions(config)
    metric = arguments.metric or next(iter(known))
    if metric not in known:
        raise UsageError(f"--metric {metric} is none of metrics ({', '.join(known)}){did_you_mean(metric, known)}")
    tracker = {key: OmegaConf.select(config, f"tracking.tracker.{key}") for key in ("project", "entity")}
    return {
        "name": config.study,
        **{key: value for key, value in tracker.items() if value is not None},
        "program": "medexp",
        "method": method,
        "metric": {"name": f"validation/{metric}/mean", "goal": "maximize" if known[metric] else "minimize"},
        **({} if arguments.runs is None else {"run_cap": arguments.runs}),
        "parameters": {key: _parameter(key, domain) for key, domain in space.items()},
        "command": _command(composer, experiment, space, arguments.config_dir),
    }


def _command(composer: Composer, experiment: Sequence[str], space: Space, config_dir: str | None) -> list[str]:
    """What an agent runs; it puts `KEY=VALUE` of all parameters in the place of the last word."""
    fixed = [
        typed
        for typed, override in zip(composer.sweep.typed, composer.sweep.parsed, strict=True)
        if override.get_key_element() not in space and not is_searchs(override.key_or_group)
    ]
    searches = composer.chosen("search") not in (None, "none")
    own = [] if config_dir is None else ["--config-dir", config_dir]
    return [
        "medexp",
        "train",
        *experiment,
        *own,
        *fixed,
        *(["search=none"] if searches else []),
        "${args_no_hyphens}",
    ]


def _parameter(key: str, domain: Domain) -> dict[str, Any]:
    """A parameter in the terms of W&B; texts stay as an override spells them."""
    if domain.listed is not None:
        return {"values": [_plain(value) for value in domain.listed]}
    assert not isinstance(domain, Choices)
    if domain.whole and domain.log:
        raise UsageError(f"{key}: W&B has no whole numbers on a logarithmic scale; list them: {key}=A,B,C")
    if domain.whole:
        return {"distribution": "int_uniform", "min": int(domain.low), "max": int(domain.high)}
    kind = "log_uniform_values" if domain.log else "uniform"
    return {"distribution": kind, "min": float(domain.low), "max": float(domain.high)}


def _plain(value: str) -> str | int | float:
    """A number where it is spelt as one, so that W&B can order it; else the text."""
    for kind in (int, float):
        try:
            number = kind(value)
        except ValueError:
            continue
        if str(number) == value:
            return number
    return value
