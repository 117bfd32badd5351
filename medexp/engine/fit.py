"""One run: resolve, compare with what is recorded, train, judge, record."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from medexp.core import environment
from medexp.core.config import comparable, plain
from medexp.core.errors import MedexpError, RecordError, RunInterruptedError
from medexp.core.files import write_json, write_text
from medexp.core.hardware import available_cores
from medexp.core.hashing import hash_plain
from medexp.core.instantiate import instantiate, targets, trust_folders, user_module_file
from medexp.core.record import Record, RunFolder, Status, changes, now, run_folder
from medexp.core.schema import check_values
from medexp.data.plan.configured import fill_in, plan_name, plan_values, planned_keys
from medexp.engine.build import build
from medexp.engine.checkpoints import CheckpointFolder
from medexp.engine.evaluation import plain_results, write_evidence
from medexp.engine.follow import follow
from medexp.engine.log import LOGGER, logging_to
from medexp.engine.loss_choice import pin_loss
from medexp.engine.precision import check_precision, resolve_precision
from medexp.engine.process import determinism_note, keep_freed_memory
from medexp.engine.processes import Processes
from medexp.engine.run import Run
from medexp.engine.shared_record import case_salt
from medexp.engine.study import Study
from medexp.engine.tracking import Outcome, Tracking, described
from medexp.engine.work import Work, configured_process


def train(config: DictConfig) -> Run:
    """Train, judge and record the experiment of a composed configuration, or find it done already.

    Args:
        config: As `medexp.compose` returns it.

    Returns:
        The recorded run.

    Raises:
        UsageError: An option is wrong or does not fit another.
        RecordError: The run's folder holds another experiment's run, or another process writes it.
        RunInterruptedError: The process was asked to stop; the state is saved and the same call resumes.
    """
    check_values(plain(config))
    keep_freed_memory()
    trust_folders(config.paths.modules)
    config = config.copy()
    processes = Processes.of(config, device=device_of(config))
    with processes.open():
        if not processes.is_first:
            return Run(follow(processes).path)
        study = Study(Path(config.paths.runs), config.study)
        with resolved_process(config, study, processes) as planned:
            folder = run_folder(Path(config.paths.runs), config.study, config.axes)
            with folder.lock(), logging_to(folder.log):
                return _Job(config, folder, processes, planned=planned).run()


@contextmanager
def resolved_process(config: DictConfig, study: Study, processes: Processes) -> Iterator[dict[str, dict[str, Any]]]:
    """The process as a configuration wants it, whose `auto` values are resolved once per study.

    Args:
        config: Gets the values.
        study: Remembers them.
        processes: This process and the others.

    Yields:
        What the dataset decided, each with its reasons: the plan and the choice of a loss, as far as the configuration
        leaves them to it.

    Raises:
        UsageError: A value fits neither the device nor the dataset.
    """
    choice = pin_loss(config, study)
    plan = _pin_plan(config, study)
    _pin_threads(config, study, processes)
    with configured_process(config):
        if config.precision == "auto":
            config.precision = study.pin("precision", lambda: resolve_precision(config, build(config)))
        check_precision(config.precision, device=processes.device)
        yield {name: found for name, found in (("plan", plan), ("loss", choice)) if found is not None}


def _pin_plan(config: DictConfig, study: Study) -> dict[str, Any] | None:
    """Fill in what the configuration leaves to the plan of the dataset; None where that is nothing."""
    if not planned_keys(config):
        return None
    values: dict[str, Any] = study.pin(plan_name(config), lambda: plan_values(config))
    fill_in(config, values)
    return values


def _pin_threads(config: DictConfig, study: Study, processes: Processes) -> None:
    if config.threads == "auto":
        sharing = processes.on_this_machine
        whose = "all cores of this process" if sharing == 1 else f"an equal share of the cores for {sharing} processes"
        config.threads = study.pin("threads", lambda: (max(1, available_cores() // sharing), whose))
    if config.dataset.workers == "auto":
        config.dataset.workers = study.pin("workers", lambda: _loading_workers(config))


def _loading_workers(config: DictConfig) -> tuple[int, str]:
    """Processes that load batches, and why so many."""
    if device_of(config) == "cpu":
        return 0, "the network computes on the CPU; a loading process would take its cores"
    cores = available_cores()
    return max(0, min(8, cores - 1)), f"one core fewer than the {cores} of this process, at most 8"


class _Job:
    """One run under its lock."""

    def __init__(
        self,
        config: DictConfig,
        folder: RunFolder,
        processes: Processes,
        *,
        planned: dict[str, dict[str, Any]],
    ) -> None:
        self.config = config
        self.planned = planned
        self.folder = folder
        self.processes = processes
        self.plain = plain(config)
        self.tracking: Tracking = instantiate(config.tracking, "tracking")
        self.work = Work(config, folder, processes, tracking=self.tracking)
        self.parts = self.work.parts
        self.record = self._new_record()

    def run(self) -> Run:
        """Find the run done, or do what is left of it."""
        if self._is_done():
            LOGGER.info(
                "finished already with the same configuration, code and data: %s; nothing to do", self.folder.path
            )
            return Run(self.folder.path)
        if self.parts.data.report.faults:
            LOGGER.info("%s; medexp data check tells them", self.parts.data.report.summary())
        self.work.try_patch()
        self._write_start()
        self._track()
        with self._recorded(), self.processes.started(self.plain, self.folder), self.work.stop.listening():
            self._fit()
            self._judge()
        LOGGER.info("recorded in %s", self.folder.path)
        return Run(self.folder.path)

    def _new_record(self) -> Record:
        config, data = self.config, self.parts.data
        modules = {user_module_file(target) for _, target in targets(config)} - {None}
        n_samples = self.parts.total_steps * config.trainer.accumulate * data.batch_size * self.processes.world_size
        packages = environment.versions()
        return Record(
            study=config.study,
            axes=dict(config.axes),
            versions=packages,
            hardware=environment.hardware(),
            threads=config.threads,
            precision=config.precision,
            part=data.parts.evaluated[0],
            metrics={metric.name: metric.definition() for metric in self.parts.module.metrics},
            started=now(),
            notes=data.report.notes(),
            fingerprint={
                "config": hash_plain(comparable(self.plain)),
                "code": environment.code([path for path in modules if path is not None]),
                "data": data.hash,
                "split": data.parts.hash,
                "environment": {name: value for name, value in packages.items() if name != "medexp"},
                "initial_weights": self.parts.initial_weights_hash(),
                "data_order": data.order.hash(n_samples),
            },
        )

    def _is_done(self) -> bool:
        """Compare with the recorded run; afterwards the folder is free, or holds this very run."""
        if not self.folder.exists:
            return False
        old = self.folder.read()
        found = changes(old, plain(OmegaConf.load(self.folder.config)), self.record, self.plain)
        if not found:
            self._continue(old)
            return old.status is Status.FINISHED
        if self.config.on_change == "refuse":
            listed = "\n  ".join(found)
            raise RecordError(
                f"{self.folder.path} holds a {old.status.value} run of another experiment; what differs:\n  {listed}\n"
                "Give the change on the command line (it becomes a folder of its own), or choose on_change=resume (go "
                "on with the change) or on_change=new (start anew, the old folder is kept under another name)"
            )
        if self.config.on_change == "new":
            self._set_aside()
        else:
            self._continue(old)
            self.record.notes.append("resumed with changes: " + "; ".join(found))
        return False

    def _continue(self, old: Record) -> None:
        self.record.started, self.record.seconds, self.record.notes = old.started, old.seconds, list(old.notes)
        self.record.wandb_id = old.wandb_id

    def _set_aside(self) -> None:
        """Keep the old run under another name; the lock and the log stay."""
        kept = self.folder.path.with_name(f"{self.folder.path.name}.before-{now().replace(':', '')}")
        kept.mkdir()
        for item in self.folder.path.iterdir():
            if item.name not in (".lock", "log.txt"):
                item.rename(kept / item.name)
        LOGGER.info("the old run is kept in %s", kept)

    def _write_start(self) -> None:
        write_text(self.folder.config, OmegaConf.to_yaml(OmegaConf.create(self.plain)))
        write_json(self.folder.path / "split.json", self.parts.data.parts.as_plain())
        for name, values in self.planned.items():
            write_json(self.folder.path / f"{name}.json", values)
        if "loss" in self.planned:
            LOGGER.info("loss=auto: %(loss)s, since %(reason)s", self.planned["loss"])
        self.record.determinism = determinism_note(
            device=device_of(self.config), deterministic=self.config.trainer.deterministic
        )
        state = environment.git_state(Path.cwd())
        if state:
            self.record.fingerprint["commit"] = state["commit"]
            write_text(self.folder.path / "code.diff", state["diff"])
        if self.tracking.is_on and self.record.wandb_id is None:
            self.record.wandb_id = secrets.token_hex(4)
        self.folder.write(self.record)
        data = self.parts.data
        LOGGER.info(
            "%s: %d training cases, %d %s cases, %d steps, %s, %d threads, %d workers",
            self.folder.path,
            len(data.parts.train),
            len(data.parts.evaluated[1]),
            data.parts.evaluated[0],
            self.parts.total_steps,
            self.config.precision,
            self.config.threads,
            self.config.dataset.workers,
        )

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Let the record say how the run ended, whatever happens."""
        try:
            yield
        except (RunInterruptedError, KeyboardInterrupt, SystemExit) as error:
            self._end(Status.KILLED, str(error) or type(error).__name__, exit_code=1)
            raise
        except BaseException as error:
            LOGGER.debug("failed", exc_info=True)
            exit_code = error.exit_code if isinstance(error, MedexpError) else 1
            self._end(Status.FAILED, f"{type(error).__name__}: {error}", exit_code=exit_code)
            raise
        else:
            self._end(Status.FINISHED, None, exit_code=0)

    def _end(self, status: Status, error: str | None, *, exit_code: int) -> None:
        self.record.status, self.record.error, self.record.ended = status, error, now()
        self.folder.write(self.record)
        cases = Run(self.folder.path).cases if self.record.results else None
        finished = self.folder if status is Status.FINISHED else None
        self.tracking.end(exit_code, Outcome(status.value, self.record.results, cases), record=finished)

    def _track(self) -> None:
        """Tell the tracker of this run what it may know."""
        if not self.tracking.is_on:
            return
        study, data = Study(Path(self.config.paths.runs), self.config.study), self.parts.data
        rename = self.tracking.names_of(data.report.cases, salt=case_salt(study))
        run = described(self.record, self.plain, self.parts.module, folder=self.folder.path, rename=rename)
        self.tracking.begin(run, public=data.source.public, rename=rename)

    def _fit(self) -> None:
        newest = CheckpointFolder(self.folder.checkpoints).newest()
        if newest is not None:
            LOGGER.info("resuming from %s", newest.name)
        with self._timed("training"):
            self.parts.data.prepare_data()
            self.work.fit()

    def _judge(self) -> None:
        part, module = self.parts.data.parts.evaluated[0], self.parts.module
        with self._timed("evaluation"):
            checkpoint = self.work.judge()
        write_evidence(module.evidence, module.metrics, self.folder, part=part)
        self.record.results = plain_results(module.results())
        self.record.checkpoint = f"{self.config.trainer.checkpoint}: {checkpoint.name}"
        if self.config.trainer.checkpoint == "best" and part == "val":
            self.record.notes.append(f"biased: the checkpoint was chosen on the {part} cases that are reported")
        for name, by_label in self.record.results.items():
            shown = "  ".join(f"{label} {_shown(value)}" for label, value in by_label.items())
            LOGGER.info("%s %s: %s", part, name, shown)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.monotonic()
        try:
            yield
        finally:
            spent = self.record.seconds.get(phase, 0.0) + time.monotonic() - begin
            self.record.seconds[phase] = round(spent, 1)


def device_of(config: DictConfig) -> str:
    """The device that computes, "cpu" or "cuda", by what is asked for and what there is."""
    return "cuda" if config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available() else "cpu"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
