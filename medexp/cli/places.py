"""Where options and experiments are found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import medexp
from medexp.core.errors import UsageError, did_you_mean


def _shipped(name: str) -> Path:
    package = Path(medexp.__file__).resolve().parent
    inside = package / name
    # In a clone they lie beside the package, in a wheel inside it.
    return inside if inside.is_dir() else package.parent / name


def conf_folder() -> Path:
    """Folder of the options that medexp ships."""
    return _shipped("conf")


def experiments_folder() -> Path:
    """Folder of the experiments that medexp ships."""
    return _shipped("experiments")


def find_experiment(name: str) -> Path:
    """The file of an experiment: any YAML path, or a name under experiments/ here or in medexp.

    Args:
        name: What the user gave.

    Returns:
        The file.

    Raises:
        UsageError: There is no such file.
    """
    candidates = [Path(name)]
    for folder in (Path("experiments"), experiments_folder()):
        relative = name.removeprefix("experiments/")
        candidates += [folder / relative, folder / f"{relative}.yaml"]
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix in (".yaml", ".yml"):
            return candidate.resolve()
    known = experiment_names()
    raise UsageError(
        f"no experiment {name}: neither a YAML file nor a name under experiments/{did_you_mean(name, known)} "
        f"(known: {', '.join(known)})"
    )


def experiment_names() -> list[str]:
    """Names of the experiments that are found without a path."""
    folders = (Path("experiments"), experiments_folder())
    return sorted(
        {file.relative_to(folder).with_suffix("").as_posix() for folder in folders for file in folder.rglob("*.yaml")}
    )


def experiment_name(path: Path) -> str:
    """What an experiment's study is called: its name under experiments/ with "-" for "/", elsewhere the file's stem."""
    for folder in (Path("experiments"), experiments_folder()):
        if path.is_relative_to(folder.resolve()):
            return "-".join(path.relative_to(folder.resolve()).with_suffix("").parts)
    return path.stem


def option_names(group: str, folders: Iterable[Path]) -> list[str]:
    """Names of the options of a group, without those that others build upon (a leading underscore)."""
    found = {
        file.relative_to(folder / group).with_suffix("").as_posix()
        for folder in folders
        for file in (folder / group).rglob("*.yaml")
    }
    return sorted(name for name in found if not name.rsplit("/", 1)[-1].startswith("_"))


def groups(folders: Iterable[Path]) -> list[str]:
    """Names of the option groups."""
    return sorted({item.name for folder in folders if folder.is_dir() for item in folder.iterdir() if item.is_dir()})
