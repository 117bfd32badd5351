"""The processes that train one model together: found as torchrun or Slurm started them, or started here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from omegaconf import DictConfig

from medexp.core.errors import MedexpError, UsageError
from medexp.core.record import RunFolder

# A process that dies closes its connections, which is noticed at once; this is for what the others wait for.
_PATIENCE = timedelta(hours=6)
_READY_EVERY_S = 0.05
_LAST_WORDS_S = 10.0
# Public, but not in the list of names that type checkers believe.
_TCP_STORE: Any = dist.TCPStore  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of a run.

    Attributes:
        rank: Its number; number 0 writes the record.
        world_size: How many there are.
        local_rank: Its number on its machine.
        node_rank: Number of its machine.
        address: Address of the machine of number 0.
        port: Port on which number 0 listens.
        launcher: What started the processes: "torchrun", "Slurm" or "medexp".
    """

    rank: int
    world_size: int
    local_rank: int
    node_rank: int
    address: str
    port: int
    launcher: str


def wanted_processes(config: DictConfig) -> int:
    """Number of processes that `trainer.devices` and `trainer.num_nodes` ask for: one a device."""
    devices = config.trainer.devices
    if devices == "auto":
        on_gpu = config.trainer.accelerator in ("auto", "gpu", "cuda")
        devices = max(1, torch.cuda.device_count()) if on_gpu else 1
    per_node = devices if isinstance(devices, int) else len(devices)
    return int(per_node) * int(config.trainer.num_nodes)


def launched_place(wanted: int) -> Place | None:
    """Where an outer launcher put this process; None where it was started alone.

    Args:
        wanted: Number of processes that the configuration asks for.

    Returns:
        The place.

    Raises:
        UsageError: The launcher started another number of processes than is wanted.
    """
    environment = os.environ
    if "RANK" in environment and "WORLD_SIZE" in environment and "MASTER_ADDR" in environment:
        place = Place(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment.get("LOCAL_RANK", 0)),
            node_rank=int(environment.get("GROUP_RANK", environment.get("NODE_RANK", 0))),
            address=environment["MASTER_ADDR"],
            port=int(environment["MASTER_PORT"]),
            launcher="torchrun",
        )
    elif wanted > 1 and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1 and SLURMEnvironment.detect():
        slurm = _slurm()
        place = Place(
            rank=slurm.global_rank(),
            world_size=slurm.world_size(),
            local_rank=slurm.local_rank(),
            node_rank=slurm.node_rank(),
            address=slurm.main_address,
            port=slurm.main_port,
            launcher="Slurm",
        )
    else:
        return None
    if place.world_size != wanted:
        raise UsageError(
            f"{place.launcher} started {place.world_size} processes, but trainer.devices times trainer.num_nodes is "
            f"{wanted}; make them equal"
        )
    return place if wanted > 1 else None


def _slurm() -> SLURMEnvironment:
    try:
        return SLURMEnvironment()
    except RuntimeError as error:  # srun's options contradict each other
        raise UsageError(f"Slurm: {error}") from error


class Processes:
    """This process and the others of its run.

    Args:
        place: Where this process stands; None for one that is alone, or will start the others itself.
        world_size: Number of processes.
        device: "cpu" or "cuda".
    """

    def __init__(self, *, place: Place | None, world_size: int, device: str) -> None:
        self.place = place
        self.world_size = world_size
        self.device = device
        self._children: list[subprocess.Popen[bytes]] = []
        self._shared = False

    @classmethod
    def of(cls, config: DictConfig, *, device: str) -> Processes:
        """The processes of a configured run, as this process finds them.

        Args:
            config: A composed configuration.
            device: "cpu" or "cuda".

        Returns:
            The processes; others are not started yet.

        Raises:
            UsageError: An outer launcher started another number of processes, or one is needed and there is none.
        """
        wanted = wanted_processes(config)
        place = launched_place(wanted)
        if place is None and config.trainer.num_nodes > 1:
            raise UsageError(
                f"trainer.num_nodes={config.trainer.num_nodes} needs a process on each machine; start the same command "
                "on all of them with torchrun or srun"
            )
        return cls(place=place, world_size=wanted, device=device)

    @property
    def rank(self) -> int:
        """Number of this process."""
        return 0 if self.place is None else self.place.rank

    @property
    def is_first(self) -> bool:
        """Whether this process writes the record."""
        return self.rank == 0

    @property
    def on_this_machine(self) -> int:
        """How many of them compute on this machine, where that is known."""
        local = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("SLURM_NTASKS_PER_NODE")
        return int(local) if self.place is not None and local else self.world_size

    def plugins(self) -> list[ClusterEnvironment]:
        """What tells Lightning of the processes; a process alone is alone, whatever cluster it finds itself in."""
        return [LightningEnvironment() if self.place is None else _Environment(self.place)]

    @contextmanager
    def open(self) -> Iterator[None]:
        """Leave no process waiting, whatever happens inside."""
        try:
            yield
        finally:
            self._close()

    @contextmanager
    def started(self, config: dict[str, Any], folder: RunFolder) -> Iterator[None]:
        """Start the others, or let those go that an outer launcher started, with the finished configuration.

        Args:
            config: The finished configuration.
            folder: The run's folder; what the others say goes to files there.

        Raises:
            MedexpError: Another process ended early.
        """
        if self.world_size == 1:
            yield
            return
        if self.place is None:
            self.place = self._start_children(folder)
        else:
            _join(self.place, self.device)
        self._share((config, str(folder.path)))
        try:
            yield
        except (RuntimeError, OSError) as error:
            ended = self._ended_early()
            if ended is None:
                raise
            raise MedexpError(f"{ended}; the same command resumes from the newest checkpoint") from error

    def receive(self) -> tuple[dict[str, Any], RunFolder] | None:
        """Wait for the first process; None where it found nothing to do or failed."""
        assert self.place is not None
        _join(self.place, self.device)
        self._shared = True
        received: list[Any] = [None]
        dist.broadcast_object_list(received, src=0, device=torch.device("cpu"))
        return None if received[0] is None else (received[0][0], RunFolder(Path(received[0][1])))

    def wait_for_first(self) -> None:
        """Go on when the first process has come here, too; what it wrote before can be read."""
        if self.world_size > 1:
            dist.broadcast_object_list([None], src=0, device=torch.device("cpu"))

    def _share(self, value: Any) -> None:
        dist.broadcast_object_list([value], src=0, device=torch.device("cpu"))
        self._shared = True

    def _start_children(self, folder: RunFolder) -> Place:
        store = _TCP_STORE("127.0.0.1", 0, self.world_size, is_master=True, wait_for_workers=False)
        for rank in range(1, self.world_size):
            words = [sys.executable, "-m", "medexp.engine.follow", str(rank), str(self.world_size), str(store.port)]
            with folder.process_log(rank).open("ab") as log:
                child = subprocess.Popen([*words, self.device], stdout=log, stderr=subprocess.STDOUT)
            self._children.append(child)
        for rank in range(1, self.world_size):
            while not store.check([_ready(rank)]):
                ended = self._ended_early(patience_s=0.0)
                if ended is not None:
                    raise MedexpError(ended)
                time.sleep(_READY_EVERY_S)
        place = Place(0, self.world_size, 0, 0, "127.0.0.1", store.port, "medexp")
        _init(place, self.device, store=store)
        return place

    def _ended_early(self, *, patience_s: float = _LAST_WORDS_S) -> str | None:
        """Which other process ended with an error, in words; one that was killed is told before the others."""
        until = time.monotonic() + patience_s
        while self._children:
            codes = {rank: child.poll() for rank, child in enumerate(self._children, start=1)}
            ended = sorted((code, rank) for rank, code in codes.items() if code)
            if ended:
                code, rank = ended[0]
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} of {self.world_size} {how}; see log.process{rank}.txt"
            if time.monotonic() >= until:
                break
            time.sleep(_READY_EVERY_S)
        return None

    def _close(self) -> None:
        if self.place is not None and not self._shared and self.is_first:
            if not dist.is_initialized():
                _join(self.place, self.device)
            self._share(None)
        if sys.exc_info()[0] is not None:
            # The others wait for this one in a collective operation; closed connections end that.
            _leave()
            self._end_children()
        for child in self._children:
            child.wait()
        _leave()

    def _end_children(self) -> None:
        for child in self._children:
            try:
                child.wait(timeout=_LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                child.kill()


def _ready(rank: int) -> str:
    return f"medexp/ready/{rank}"


def _join(place: Place, device: str) -> None:
    """Become part of the group that an outer launcher's or medexp's first process opens."""
    if place.launcher == "medexp":
        store = _TCP_STORE(place.address, place.port, place.world_size, is_master=False, wait_for_workers=False)
        store.set(_ready(place.rank), "")
        _init(place, device, store=store)
    elif place.launcher == "torchrun":
        _init(place, device, init_method="env://")
    else:
        _init(place, device, init_method=f"tcp://{place.address}:{place.port}")


def _init(place: Place, device: str, **how: Any) -> None:
    backend = "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, rank=place.rank, world_size=place.world_size, timeout=_PATIENCE, **how)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class _Environment(ClusterEnvironment):
    """Tells Lightning where this process stands; all are there already."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    creates_processes_externally = property(lambda self: True)
    main_address = property(lambda self: self.place.address)
    main_port = property(lambda self: self.place.port)

    @staticmethod
    def detect() -> bool:
        return True

    def world_size(self) -> int:
        return self.place.world_size

    def set_world_size(self, size: int) -> None:
        assert size == self.place.world_size

    def global_rank(self) -> int:
        return self.place.rank

    def set_global_rank(self, rank: int) -> None:
        assert rank == self.place.rank

    def local_rank(self) -> int:
        return self.place.local_rank

    def node_rank(self) -> int:
        return self.place.node_rank
