"""Installed packages against the versions that medexp's metadata asks for."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        what: What was found.
        remedy: What to do.
        failure: True where medexp cannot work so; False for a warning.
    """

    what: str
    remedy: str
    failure: bool


@dataclass(frozen=True)
class Dependency:
    """An installed package against what is required of it.

    Attributes:
        name: Name of the package.
        required: Versions that are allowed; empty for any.
        installed: Version that is installed; None where it is missing.
        extras: Extras that ask for it; empty for a package that is always needed.
        status: "ok", "missing" or "unfit" (below its floor or above its cap), for extras with "optional, " before.
    """

    name: str
    required: str
    installed: str | None
    extras: tuple[str, ...]
    status: str


def check_requirements(
    requirements: Iterable[str], *, installed_version: Callable[[str], str | None]
) -> list[Dependency]:
    """Compare what is installed with what is required.

    Args:
        requirements: Requirements as package metadata spells them, extras in their markers.
        installed_version: Gives the installed version of a package, or None.

    Returns:
        One entry for each package, needed ones first, in the order of the requirements.
    """
    needed: dict[str, Dependency] = {}
    optional: dict[str, Dependency] = {}
    for text in requirements:
        requirement = Requirement(text)
        extra = _extra_of(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra or ""}):
            continue
        key = canonicalize_name(requirement.name)
        known = (optional if extra else needed).get(key)
        dependency = _compare(requirement, extra, installed_version(requirement.name), known)
        (optional if extra else needed)[key] = dependency
    return [*needed.values(), *(entry for key, entry in optional.items() if key not in needed)]


def _extra_of(requirement: str) -> str | None:
    """The extra that asks for a requirement, by its marker; None for what is always needed."""
    found = re.search(r"""\bextra\s*==\s*["']([^"']+)["']""", requirement.partition(";")[2])
    return found.group(1) if found else None


def _compare(
    requirement: Requirement, extra: str | None, installed: str | None, known: Dependency | None
) -> Dependency:
    specifier = requirement.specifier & SpecifierSet(known.required if known else "")
    extras = (known.extras if known else ()) + ((extra,) if extra else ())
    fits = installed is not None and specifier.contains(installed, prereleases=True)
    status = "ok" if fits else "missing" if installed is None else "unfit"
    if extra and not fits:
        status = f"optional, {status}"
    required = ",".join(sorted({str(part) for part in specifier}, reverse=True))
    return Dependency(requirement.name, required, installed, extras, status)


def dependency_findings(dependencies: Iterable[Dependency]) -> list[Finding]:
    """A failure for each needed package that is missing or unfit; extras are nobody's duty."""
    findings = []
    for dependency in dependencies:
        if dependency.status not in ("missing", "unfit"):
            continue
        got = "is missing" if dependency.installed is None else f"is {dependency.installed}"
        what = f"{dependency.name} {got}, medexp needs {dependency.name}{dependency.required}"
        findings.append(Finding(what, f'run: pip install "{dependency.name}{dependency.required}"', True))
    return findings


def pair_findings() -> list[Finding]:
    """A failure where torchvision was built for another torch; its operators then do not load."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires("torchvision") or []]
    except importlib.metadata.PackageNotFoundError:
        return []
    installed = version_of("torch")
    for requirement in wanted:
        if (
            requirement.name == "torch"
            and installed
            and not requirement.specifier.contains(installed, prereleases=True)
        ):
            what = (
                f"torchvision {version_of('torchvision')} was built for torch{requirement.specifier}, got {installed}"
            )
            return [Finding(what, "install torch and torchvision of the same release", True)]
    return []


def version_of(name: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def declared_requirements() -> list[str]:
    """What medexp declares it needs: its metadata, or pyproject.toml where it runs from a checkout uninstalled."""
    try:
        return importlib.metadata.requires("medexp") or []
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].items()
    optional = [f'{requirement}; extra == "{extra}"' for extra, texts in extras for requirement in texts]
    return [*project["dependencies"], *optional]
