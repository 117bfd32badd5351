"""Which metrics are better when they are larger; asked in a process that has torch loaded."""

from __future__ import annotations

import signal
from multiprocessing.connection import Connection

from omegaconf import DictConfig

from medexp.core.errors import MedexpError, UsageError
from medexp.launchers.forks import Fork, receiver


def directions(config: DictConfig) -> dict[str, bool]:
    """Whether a larger value is better, by the name of each metric.

    Args:
        config: A finished configuration.

    Returns:
        The metrics in order.

    Raises:
        UsageError: A metric cannot be built.
        MedexpError: The process that was to build them is gone.
    """
    reads, writes = receiver()
    fork = Fork(send_directions, (config, writes))
    writes.close()
    try:
        told: dict[str, bool] | str = reads.recv()
        fork.end()
    except EOFError:
        raise MedexpError("the process that looked at the metrics was killed") from None
    finally:
        fork.send(signal.SIGKILL)
        reads.close()
    if isinstance(told, str):
        raise UsageError(told)
    return told


def send_directions(config: DictConfig, writes: Connection) -> int:
    """What the process does: build the metrics and tell of them, or what is wrong.

    Args:
        config: A finished configuration.
        writes: Gets the answer.

    Returns:
        0.
    """
    from medexp.core.instantiate import instantiate, trust_folders

    try:
        trust_folders(config.paths.modules)
        metrics = instantiate(config.metrics, "metrics").values()
        writes.send({metric.name: metric.higher_is_better for metric in metrics})
    except MedexpError as error:
        writes.send(str(error))
    return 0
