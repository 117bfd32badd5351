"""Errors that a user can act on: where, what was expected, what was found, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from medexp.core.faults import Fault


class MedexpError(Exception):
    """An error whose message is written for the user; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(MedexpError):
    """The command, a configuration key or a combination of options is wrong: exit code 2."""

    exit_code = 2


class DataError(MedexpError):
    """A file or a case is not what its source promises.

    Attributes:
        faults: What is wrong, one by one; empty where the message alone says it.
    """

    faults: tuple[Fault, ...] = ()

    @classmethod
    def of(cls, *faults: Fault) -> DataError:
        """An error that tells these faults, a line each."""
        error = cls("\n".join(map(str, faults)))
        error.faults = faults
        return error


class RecordError(MedexpError):
    """A run folder is damaged, locked, or holds another experiment's run."""


class RunPrunedError(MedexpError):
    """The search that a run is a trial of stopped it; it is not resumed."""


class RunInterruptedError(MedexpError):
    """The run was asked to stop, saved its state at a batch boundary and can be resumed."""


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """The names most like `name`, best first; a dotted key is also compared by its last part.

    >>> nearest("gama", ["gamma", "alpha"])
    ['gamma']
    """
    options = list(dict.fromkeys(known))
    found = difflib.get_close_matches(name, options, n=count, cutoff=0.6)
    leaf = name.rsplit(".", 1)[-1]
    by_leaf = {option: option.rsplit(".", 1)[-1] for option in options}
    for match in difflib.get_close_matches(leaf, set(by_leaf.values()), n=count, cutoff=0.7):
        found += [option for option, last in by_leaf.items() if last == match and option not in found]
    return found[:count]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A closing clause for an error message, or nothing where no known name is near."""
    found = nearest(name, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""
