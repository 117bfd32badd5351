"""The command `medexp`: which subcommand, and how an error is told. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

# A disk that is full, over its quota, read-only or closed to the user, or a file where a folder should be.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
COMMANDS = {
    "train": ("medexp.cli.train", "train_command", "compose, train, judge and record an experiment, or a sweep (-m)"),
    "lr-find": ("medexp.cli.lr_find", "lr_find", "suggest a learning rate from a short training in which it rises"),
    "sweep": ("medexp.cli.sweep_commands", "sweep_command", "write a sweep of Weights & Biases, whose agents train"),
    "status": ("medexp.cli.status", "status_command", "list the runs of a study, their states and scores"),
    "ensemble": ("medexp.cli.ensemble", "ensemble_command", "judge the networks of all folds of a study as one"),
    "compare": ("medexp.cli.compare", "compare_command", "say which method is better, worse or not separable"),
    "show": ("medexp.cli.show", "show_command", "draw cases of a run, with what is wrong, or tracks"),
    "describe": ("medexp.cli.describe", "describe_command", "class, place, size and shape of each object of a run"),
    "track": ("medexp.cli.track", "track_command", "link instances over frames to tracks, or join them over slices"),
    "data": ("medexp.cli.data", "data_command", "list, fetch, check and measure datasets, and plan a network for one"),
    "tune-postprocessing": (
        "medexp.cli.tune_postprocessing",
        "tune_command",
        "choose the post-processing of a run on its validation cases",
    ),
    "model": ("medexp.cli.model", "model_command", "list networks, and say what one costs and which patches pass it"),
    "gc": ("medexp.cli.gc", "gc_command", "remove checkpoints and leftovers that are no longer needed"),
    "wandb": ("medexp.cli.wandb", "wandb_command", "send runs that were tracked offline to Weights & Biases"),
    "doctor": ("medexp.cli.doctor", "doctor", "say what this machine can do"),
}
_EXAMPLES = """examples:
  medexp train experiments/quickstart.yaml            one run on synthetic images, in about a minute
  medexp train quickstart loss=focal optimizer.lr=0.01  the same with other knobs
  medexp train -m quickstart loss=dice,focal seed=0..2  a sweep; the same command again does what is left
  medexp status quickstart                            its runs
  medexp compare quickstart --by loss                 which loss is better, if one is
  medexp show runs/quickstart/default                 its worst case, drawn
  medexp data check dataset=msd dataset.root=FOLDER   what is wrong with a dataset, in one pass

`medexp train --help` explains overrides. Exit codes: 0 good, 1 a run failed or a check says FAIL, 2 wrong use."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after `medexp`; those of the process unless given.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from medexp import __version__

        print(f"medexp {__version__}")
        return 0
    if words[0] in ("-sc", "--shell-completion"):
        # The shell asks the program, whatever command is being typed.
        return _run("train", words)
    return _run(words[0], words[1:])


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, _, text) in COMMANDS.items()]
    return "\n".join(["usage: medexp COMMAND [ARGUMENTS]", "", "commands:", *lines, "", _EXAMPLES])


def _run(command: str, words: list[str]) -> int:
    from medexp.core.errors import MedexpError, UsageError, did_you_mean

    try:
        if command not in COMMANDS:
            raise UsageError(f"no command {command}{did_you_mean(command, COMMANDS)} (known: {', '.join(COMMANDS)})")
        module, function, _ = COMMANDS[command]
        code: int = getattr(import_module(module), function)(words)
        return code
    except MedexpError as error:
        print(f"medexp {command}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read the output has seen enough, e.g. `| head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _DISK:
            raise
        print(
            f"medexp {command}: {error}; make room or choose another folder (paths.runs, paths.cache)", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt as interrupt:
        remedy = "; the same command goes on" if command == "train" else ""
        print(f"medexp {command}: {interrupt or 'stopped'}{remedy}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
