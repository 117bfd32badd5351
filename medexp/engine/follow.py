"""What a process of a run does that is not its first: the same work, without a record.

`python -m medexp.engine.follow RANK WORLD_SIZE PORT DEVICE` is how the first process starts the others.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress

from omegaconf import OmegaConf

from medexp.core.errors import MedexpError, RunPrunedError
from medexp.core.instantiate import trust_folders
from medexp.core.record import RunFolder
from medexp.engine.log import logging_to
from medexp.engine.process import keep_freed_memory
from medexp.engine.processes import Place, Processes
from medexp.engine.work import Work, configured_process


def follow(processes: Processes) -> RunFolder:
    """Wait for the first process, then train and judge with it.

    Args:
        processes: This process and the others.

    Returns:
        The run's folder, which the first process writes.

    Raises:
        MedexpError: The first process found nothing to do, or failed before it began.
    """
    received = processes.receive()
    if received is None:
        raise MedexpError("the first process did not start a training; it says why")
    config, folder = OmegaConf.create(received[0]), received[1]
    trust_folders(config.paths.modules)
    log = folder.process_log(processes.rank)
    with configured_process(config), logging_to(log, terminal_too=False):
        work = Work(config, folder, processes)
        with work.stop.listening(), suppress(RunPrunedError):
            work.fit()
            work.judge()
    return folder


def main(words: Sequence[str]) -> int:
    """Join the first process of this machine.

    Args:
        words: Rank, number of processes, port, device.

    Returns:
        The exit code.
    """
    rank, world_size, port = map(int, words[:3])
    keep_freed_memory()
    place = Place(rank, world_size, rank, 0, "127.0.0.1", port, "medexp")
    processes = Processes(place=place, world_size=world_size, device=words[3])
    try:
        with processes.open():
            follow(processes)
    except MedexpError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
