"""`medexp tune-postprocessing RUN`: a chain of post-processing chosen on validation cases, and what it gains."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from medexp.core.errors import UsageError

if TYPE_CHECKING:
    from medexp.engine.run import Run
    from medexp.engine.tuning import Tuned

_PIPE_WIDTH = 10_000
_FILE = "tuned_post_processing.json"
_CHAIN = "post_processing.steps"
_EPILOG = """Without a grid the knobs of the run's chain are varied one by one, and for masks keep_largest and
remove_small are tried behind it. A grid is written as a sweep, and places count from 0:
  medexp tune-postprocessing runs/study/default post_processing.steps.1.min_volume_mm3=0,10,50
  medexp tune-postprocessing runs/study/default 'post_processing=[argmax],[argmax,keep_largest]'

The run itself is not changed. Exit codes: 0 good, 1 the run cannot be read, 2 wrong use."""


def tune_command(words: Sequence[str]) -> int:
    """Tune the post-processing of a run.

    Args:
        words: Words after `medexp tune-postprocessing`.

    Returns:
        0.

    Raises:
        UsageError: The grid does not fit the run.
        RecordError: The run is not finished or damaged.
    """
    arguments = _parser().parse_intermixed_args(list(words))
    from medexp.core.files import write_json
    from medexp.engine.run import load_run

    run = load_run(arguments.run)
    tuned = _tuned(run, arguments)
    _print(tuned, Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH))
    file = arguments.json or run.path / _FILE
    write_json(file, tuned.as_plain())
    print(f"written: {file}")
    return 0


def _tuned(run: Run, arguments: argparse.Namespace) -> Tuned:
    from medexp.core.instantiate import trust_folders
    from medexp.engine.build import build
    from medexp.engine.soft_predictions import predict_parts
    from medexp.engine.tuning import Tuning

    trust_folders(run.config.paths.modules)
    parts = build(run.config)
    task, metrics = parts.module.task, parts.module.metrics
    tuning = Tuning(
        _chains(run, arguments.grid, gives_mask=str(task.judged) == "mask"),
        takes=task.gives,
        gives=task.judged,
        metrics=metrics,
        objective=arguments.metric or metrics[0].name,
    )
    if not parts.data.parts.val:
        raise UsageError(f"{run.path} has no validation cases; post-processing is chosen on nothing else")
    with tempfile.TemporaryDirectory(prefix="medexp-tune-") as folder:
        print(f"{run.path}: {len(tuning.chains)} chains; predicting {_counts(parts.data.parts)}", flush=True)
        soft = predict_parts(run, parts.module, parts.data, Path(folder))
        return tuning.tune(soft["val"], soft.get("test"), resamples=arguments.resamples, seed=run.config.seed)


def _counts(parts: Any) -> str:
    test = f" and {len(parts.test)} test" if parts.test else ""
    return f"{len(parts.val)} validation{test} cases"


def _chains(run: Run, words: Sequence[str], *, gives_mask: bool) -> list[list[dict[str, Any]]]:
    """The candidates, the run's own chain first."""
    from medexp.cli.overrides import parse
    from medexp.cli.places import conf_folder
    from medexp.cli.steps import whole_steps
    from medexp.core.config import plain
    from medexp.engine.candidates import grid_chains, usual_chains

    own = plain(run.config.post_processing)["steps"]
    folders = [*map(Path, run.config.paths.conf), conf_folder()]

    def whole(chain: Any) -> list[dict[str, Any]]:
        return whole_steps("post_processing", chain, folders, group="post_processing")

    if not words:
        additions: list[list[Any]] = [["keep_largest"], ["fill_holes"]]
        additions += [[{"remove_small": {"min_volume_mm3": volume}}] for volume in (10.0, 30.0, 100.0, 300.0)]
        return usual_chains(own, [whole(more) for more in additions] if gives_mask else [])
    grid = {override.key_or_group: _values(override) for override in parse(words).parsed}
    return grid_chains(own, [whole(chain) for chain in grid.pop(_CHAIN, [])], grid)


def _values(override: Any) -> list[Any]:
    """The values of an override, one or several."""
    return list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]


def _print(tuned: Tuned, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("chain", f"{tuned.metric} on val", ""):
        table.add_column(title, overflow="fold")
    for place, (chain, value) in enumerate(tuned.candidates):
        note = "own" if place == 0 else ""
        table.add_row(_spelt(chain), _number(value), f"{note} chosen".strip() if place == tuned.chosen else note)
    console.print(table, markup=False)
    where = "validation cases, each group left out of the choice in turn" if tuned.nested else "test cases"
    console.print(f"\ngain on {tuned.n_cases} {where} ({tuned.n_groups} groups; 95 % by paired bootstrap over groups)")
    gains = Table(box=None, pad_edge=False)
    for title in ("metric", "before", "after", "gain", "low", "high"):
        gains.add_column(title)
    for gain in tuned.gains:
        gains.add_row(gain.metric, *map(_number, (gain.before, gain.after, gain.gain, gain.low, gain.high)))
    console.print(gains)
    if tuned.nested:
        console.print(
            f"\nThe run has no test part: on the very cases that it was chosen on, the chain gains "
            f"{_number(tuned.optimistic)} in {tuned.metric}, which is optimistic; the table above is not."
        )
    console.print(f"\nuse it: post_processing={_spelt(tuned.candidates[tuned.chosen][0])}", markup=False)


def _number(value: float) -> str:
    return "undefined" if value != value else f"{value:.4f}"


def _spelt(chain: Sequence[Mapping[str, Any]]) -> str:
    """A chain as it is written on the command line."""
    return f"[{','.join(map(_spelt_step, chain))}]"


def _spelt_step(step: Mapping[str, Any]) -> str:
    from medexp.cli.places import conf_folder
    from medexp.cli.steps import whole_steps

    name = str(step["_target_"]).split(".")[-2]
    shipped = (conf_folder() / "post_processing" / f"{name}.yaml").is_file()
    usual = whole_steps("", [name], [conf_folder()], group="post_processing")[0] if shipped else {}
    knobs = {key: value for key, value in step.items() if key != "_target_" and usual.get(key, ...) != value}
    inner = ",".join(f"{key}:{json.dumps(value).replace(chr(34), '')}" for key, value in knobs.items())
    return f"{{{name}:{{{inner}}}}}" if knobs else name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp tune-postprocessing",
        description="Choose the post-processing of a run on its validation cases, and tell what it gains on cases that "
        "had no say: those of the test part, or where there is none each validation group left out in turn.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run (the one with run.json)")
    parser.add_argument("grid", nargs="*", metavar="KEY=A,B,C", help="knobs, or whole chains, that are tried")
    parser.add_argument("--metric", help="what the choice is made by (default: the run's first metric)")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default: 1000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"where to write (default: RUN/{_FILE})")
    return parser
