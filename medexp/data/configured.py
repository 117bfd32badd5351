"""The source that a configuration describes, with what is derived from its annotations; torch is not imported."""

from __future__ import annotations

from omegaconf import DictConfig

from medexp.core.config import comparable, plain
from medexp.core.hashing import hash_plain
from medexp.core.instantiate import instantiate
from medexp.core.types import Source
from medexp.data.derive.derived import Derivation, Derived


def source_of(config: DictConfig) -> tuple[Source, list[Derivation]]:
    """The dataset's source, and the steps that it makes its annotations with.

    Args:
        config: A finished configuration.

    Returns:
        The source, which takes the steps itself, and the steps.

    Raises:
        UsageError: A knob has a value that has no meaning.
        DataError: The dataset cannot be listed.
    """
    source: Source = instantiate(config.dataset.source, "dataset.source")
    chain = config.dataset.get("derive") or []
    steps: list[Derivation] = [instantiate(step, f"dataset.derive[{i}]") for i, step in enumerate(chain)]
    return (Derived(source=source, steps=steps) if steps else source), steps


def identity_of(config: DictConfig) -> str:
    """What decides an image as it is read, beside its files: a hash of how source and derivation are configured."""
    dataset = plain(config.dataset)
    source, derive = comparable(dataset["source"]), dataset.get("derive")
    return hash_plain({"source": source, "derive": derive} if derive else source)
