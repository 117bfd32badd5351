"""Where options and experiments are found."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import medexp
from medexp.core.errors import UsageError, did_you_mean

# Groups inside an option: conf/dataset/split is one, while conf/task/instance holds options of task with longer names.
INNER_GROUPS = (
    "dataset/preprocessing/normalisation",
    "dataset/split",
    "search/pruner",
    "search/sampler",
    "task/representation",
)


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
    inner = tuple(f"{name.removeprefix(f'{group}/')}/" for name in INNER_GROUPS if name.startswith(f"{group}/"))
    return sorted(
        name for name in found if not name.rsplit("/", 1)[-1].startswith("_") and not (inner and name.startswith(inner))
    )


def groups(folders: Iterable[Path]) -> list[str]:
    """Names of the option groups, inner ones too."""
    found = [folder for folder in folders if folder.is_dir()]
    outer = {item.name for folder in found for item in folder.iterdir() if item.is_dir()}
    inner = {name for folder in found for name in INNER_GROUPS if (folder / name).is_dir()}
    return sorted(outer | inner)


def key_of(group: str) -> str:
    """Where the object of a group stands in the configuration.

    >>> key_of("dataset/split")
    'dataset.split'
    """
    return group.replace("/", ".")


def own_options(folder: Path) -> Path:
    """A folder of the user's own options, none of which takes the name of another one that medexp ships.

    Args:
        folder: As the user gave it.

    Returns:
        Its whole path.

    Raises:
        UsageError: It is no folder, or an option in it has the name of another one that is shipped.
    """
    if not folder.is_dir():
        raise UsageError(f"--config-dir {folder} is no folder; give one that is laid out like conf/")
    for file in sorted(folder.rglob("*.yaml")):
        shipped = conf_folder() / file.relative_to(folder)
        if shipped.is_file() and shipped.read_bytes() != file.read_bytes():
            raise UsageError(f"{file} has the name of an option that medexp ships; give it another name")
    return folder.resolve()


def state_of_options(folders: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Path, time and size of every option file, by which a change of any is seen."""
    files = [file for folder in folders for file in folder.rglob("*.yaml")]
    return tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(files))
