"""Completion in the shell: Hydra's, taught that a command and an experiment stand before the overrides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from io import StringIO

from hydra._internal.utils import get_args_parser

from medexp.cli.composition import TOP, Composer
from medexp.cli.main import COMMANDS
from medexp.cli.places import experiment_names
from medexp.core.errors import MedexpError, UsageError

_LINE = "COMP_LINE"


def complete(arguments: Sequence[str]) -> int:
    """Print a shell's set-up, or the words that could follow on its command line.

    Args:
        arguments: `install=SHELL`, `uninstall=SHELL`, or `query=SHELL` with the line so far in COMP_LINE.

    Returns:
        0.

    Raises:
        UsageError: The argument is none of these, or the shell is not known.
    """
    composer = Composer(None, [])
    if list(arguments)[:1] and str(arguments[0]).startswith("query=") and _LINE in os.environ:
        return _query(arguments)
    try:
        with composer.hydra() as hydra:
            hydra.shell_completion(config_name=TOP, overrides=list(arguments))
    except ValueError as error:
        raise UsageError(f"-sc: {str(error).splitlines()[0]}; e.g. -sc install=bash") from error
    return 0


def _query(arguments: Sequence[str]) -> int:
    program, *words = os.environ[_LINE].split()
    is_new_word = os.environ[_LINE][-1:].isspace()
    if not words or (len(words) == 1 and not is_new_word):
        print(" ".join(name for name in COMMANDS if not words or name.startswith(words[0])))
        return 0
    if words[0] != "train":
        return 0
    last = "" if is_new_word else words[-1]
    print(" ".join(name for name in experiment_names() if "=" not in last and name.startswith(last)))
    before = words[1:] if is_new_word else words[1:-1]
    with suppress(MedexpError, SystemExit), redirect_stderr(StringIO()):
        flags = get_args_parser().parse_intermixed_args(before)
        named = [word for word in flags.overrides if "=" not in word]
        composer = Composer(named[0] if named else None, [], config_dir=flags.config_dir)
        chosen = [] if composer.experiment is None else [f"+experiment='{composer.experiment.name}'"]
        sweep = ["-m"] if flags.multirun else []
        overrides = [word for word in flags.overrides if word not in named]
        os.environ[_LINE] = " ".join([program, *sweep, *composer.search_path(), *chosen, *overrides, last])
        with composer.hydra() as hydra:
            hydra.shell_completion(config_name=TOP, overrides=list(arguments))
    return 0
