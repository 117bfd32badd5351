"""One run: compare with what is recorded, train, judge, record."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medexp.core import environment
from medexp.core.config import comparable, plain
from medexp.core.errors import MedexpError, RecordError, RunInterruptedError, RunPrunedError
from medexp.core.files import write_json, write_text
from medexp.core.hashing import hash_plain
from medexp.core.instantiate import instantiate, targets, user_module_file
from medexp.core.record import Record, RunFolder, Status, changes, now
from medexp.core.waiting import end_waiting
from medexp.engine.checkpoints import CheckpointFolder
from medexp.engine.evaluation import plain_results, write_evidence
from medexp.engine.inspected import Standing
from medexp.engine.log import LOGGER
from medexp.engine.process import determinism_note, device_of
from medexp.engine.processes import Processes
from medexp.engine.pruning import id_of_agent, is_chosen_from
from medexp.engine.run import Run
from medexp.engine.shared_record import case_salt
from medexp.engine.study import Study
from medexp.engine.tracking import Outcome, Tracking, described
from medexp.engine.work import Work

_STANDINGS = {
    Status.RUNNING: Standing.RUNNING,
    Status.KILLED: Standing.INTERRUPTED,
    Status.FAILED: Standing.FAILED,
    Status.FINISHED: Standing.FINISHED,
    Status.PRUNED: Standing.PRUNED,
}
# What is told of a run that is not made again.
_ENDED = {
    Status.FINISHED: "finished already with the same configuration, code and data: %s; nothing to do",
    Status.PRUNED: "a search stopped this run: %s; nothing to do (study=NAME makes it anew)",
}


class TrainingJob:
    """One run: what is recorded of it, and what is left to do.

    Args:
        config: A finished configuration, its `auto` values resolved.
        folder: The run's folder.
        processes: This process and the others.
        planned: What the dataset decided, by name, with its reasons.
    """

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

    def standing(self) -> Standing:
        """What the folder holds of this very run.

        Returns:
            The standing.

        Raises:
            RecordError: It holds another experiment's run, and the configuration says nothing of what to do with it.
        """
        if not self.folder.exists:
            return Standing.NEW
        old, found = self._found()
        if not found:
            return _STANDINGS[old.status]
        if self.config.on_change == "refuse":
            listed = "\n  ".join(found)
            raise RecordError(
                f"{self.folder.path} holds a {old.status.value} run of another experiment; what differs:\n  {listed}\n"
                "Give the change on the command line (it becomes a folder of its own), or choose on_change=resume (go "
                "on with the change) or on_change=new (start anew, the old folder is kept under another name)"
            )
        return Standing.NEW if self.config.on_change == "new" else Standing.INTERRUPTED

    def run(self) -> Run:
        """Find the run done, or do what is left of it; the caller holds the folder's lock."""
        if self._is_done():
            end_waiting(self.folder.path)
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

    def _found(self) -> tuple[Record, list[str]]:
        """The record in the folder, and what makes this job another experiment."""
        old = self.folder.read()
        return old, changes(old, plain(OmegaConf.load(self.folder.config)), self.record, self.plain)

    def _is_done(self) -> bool:
        """Compare with the recorded run; afterwards the folder is free, or holds this very run."""
        self.standing()
        if not self.folder.exists:
            return False
        old, found = self._found()
        if found and self.config.on_change == "new":
            self._set_aside()
            return False
        self._continue(old)
        if found:
            self.record.notes.append("resumed with changes: " + "; ".join(found))
        if not found and old.status in _ENDED:
            LOGGER.info(_ENDED[old.status], self.folder.path)
        return not found and old.status in _ENDED

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
        if self.tracking.is_on:
            self.record.wandb_id = id_of_agent() or self.record.wandb_id or secrets.token_hex(4)
        self.folder.write(self.record)
        end_waiting(self.folder.path)
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
        except RunPrunedError as error:
            LOGGER.info("%s", error)
            self._end(Status.PRUNED, str(error), exit_code=0)
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
        validation = self.record.results if self.record.part == "val" else self.record.validation
        outcome = Outcome(status.value, self.record.results, cases, validation=validation)
        self.tracking.end(exit_code, outcome, record=self.folder if status is Status.FINISHED else None)

    def _track(self) -> None:
        """Tell the tracker of this run what it may know."""
        if not self.tracking.is_on:
            return
        study, data = Study(Path(self.config.paths.runs), self.config.study), self.parts.data
        divided = data.parts  # a split may give its cases groups of their own
        cases = (*data.report.cases, *divided.train, *divided.val, *divided.test)
        rename = self.tracking.names_of(cases, salt=case_salt(study))
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
        self.record.validation = plain_results(self.work.validation)
        self.record.checkpoint = f"{self.config.trainer.checkpoint}: {checkpoint.name}"
        if self.config.trainer.checkpoint == "best" and part == "val":
            self.record.notes.append(f"biased: the checkpoint was chosen on the {part} cases that are reported")
        if is_chosen_from(self.config) and part == "val":
            self.record.notes.append(
                f"biased: the search chooses among its trials by the {part} cases that are reported"
            )
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


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
