"""The fingerprint of the dataset that a configuration describes; torch is not imported."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from medexp.core.config import plain
from medexp.core.instantiate import trust_folders
from medexp.data.configured import identity_of, source_of
from medexp.data.fingerprint.dataset import Fingerprint
from medexp.data.fingerprint.store import CaseSummaries


def fingerprint_of(config: DictConfig, *, learning: bool = False) -> Fingerprint:
    """The fingerprint of the dataset of a composed configuration.

    Args:
        config: As `medexp.compose` returns it.
        learning: Leave out the cases that the dataset sets apart as its test part.

    Returns:
        The fingerprint, along the axes of the network's grid.

    Raises:
        UsageError: A knob of the dataset has an unfit value.
        DataError: Tells what is wrong with each case that cannot be read, unless such cases are left out.
    """
    trust_folders(config.paths.modules)
    source, _ = source_of(config)
    cases = [case for case in source.cases() if not (learning and case.split == "test")]
    knobs = plain(config.dataset)
    summaries = CaseSummaries(
        folder=Path(config.paths.cache) / "prepared",
        source=source,
        identity=identity_of(config),
        ignored_label=config.task.get("ignore_index"),
    )
    found = (summaries.readable if knobs.get("integrity") == "quarantine" else summaries.of)(cases)
    return Fingerprint(source, found.values(), orient=bool(knobs.get("preprocessing", {}).get("orient", False)))
