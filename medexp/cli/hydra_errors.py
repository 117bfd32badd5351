"""What Hydra says of a configuration that it cannot compose, told as medexp tells errors."""

from __future__ import annotations

from omegaconf.errors import InterpolationKeyError


def reason(error: BaseException) -> str:
    """What Hydra says: its own message, and the root of the chain of errors, which names the key; on one line.

    Args:
        error: What Hydra or OmegaConf raised.

    Returns:
        The reason.
    """
    texts = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        texts.append(str(error))
    if isinstance(error, InterpolationKeyError):
        missing = texts[-1].splitlines()[0]
        return f"{error.full_key} reads what is not there ({missing}); choose options that go together"
    told = "\n".join(dict.fromkeys((texts[0], texts[-1]))).split("Config search path:")[0]
    lines = [line.strip() for line in told.splitlines()]
    kept = [line for line in lines if line and not line.startswith("object_type=")]
    return "; ".join(kept).replace(":;", ":") or type(error).__name__
