"""Several trained networks as one: what they predict softly is averaged, then post-processed and judged once."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from medexp.core import environment
from medexp.core.config import plain
from medexp.core.errors import UsageError
from medexp.core.files import write_json, write_text
from medexp.core.hashing import hash_plain
from medexp.core.instantiate import trust_folders
from medexp.core.record import Record, RunFolder, Status, now, run_folder
from medexp.core.types import EvidenceRow, Prediction
from medexp.engine.build import Parts, build
from medexp.engine.evaluation import plain_results, write_evidence
from medexp.engine.run import Run
from medexp.engine.soft_predictions import SoftCases, predict_parts

ENSEMBLE = "ensemble"
_TEST = "test"


def judge_ensemble(runs: Sequence[Run]) -> Run:
    """Judge the average of runs that differ in their fold on the test part, and record it beside them.

    Args:
        runs: Two finished runs or more of one study.

    Returns:
        The recorded ensemble, whose axes are those of the runs with `fold=ensemble`.

    Raises:
        UsageError: There is no test part (each held-out case was learnt by the others), the parts differ, or what the
            networks predict cannot be averaged.
        RecordError: A checkpoint is lost, or another process writes the ensemble.
    """
    first, begin = runs[0], time.monotonic()
    trust_folders(first.config.paths.modules)
    axes = {**first.record.axes, "fold": ENSEMBLE}
    folder = run_folder(first.path.parent.parent, first.record.study, axes)
    with folder.lock(), tempfile.TemporaryDirectory(prefix="medexp-ensemble-") as scratch:
        members = [(run, build(run.config)) for run in runs]
        record = _new_record(members, axes)
        soft = [_predicted(run, parts, Path(scratch) / str(number)) for number, (run, parts) in enumerate(members)]
        module = members[0][1].module
        module.evidence = list(_judged(members[0][1], soft))
        record.seconds = {"evaluation": round(time.monotonic() - begin, 1)}
        record.results, record.ended = plain_results(module.results()), now()
        _write(folder, record, members[0], module.evidence)
    return Run(folder.path)


def averaged(predictions: Sequence[Prediction]) -> Prediction:
    """The mean of what several networks predict of one case.

    Args:
        predictions: Soft predictions of the case.

    Returns:
        The same with the mean of probabilities, maps and scores.

    Raises:
        UsageError: They hold objects or instances, of which there is no mean.
    """
    first = predictions[0]
    if first.objects is not None or first.instances is not None or first.mask is not None:
        raise UsageError("an ensemble averages probabilities, maps and scores; this task predicts objects or masks")
    return replace(
        first,
        probabilities=_mean([each.probabilities for each in predictions]),
        scores=_mean([each.scores for each in predictions]),
        maps={name: np.mean([each.maps[name] for each in predictions], axis=0) for name in first.maps},
    )


def _mean(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [array for array in arrays if array is not None]
    return np.mean(known, axis=0, dtype=known[0].dtype) if known else None


def _predicted(run: Run, parts: Parts, folder: Path) -> SoftCases:
    return predict_parts(run, parts.module, parts.data, folder, parts=(_TEST,))[_TEST]


def _judged(parts: Parts, soft: Sequence[SoftCases]) -> Iterator[EvidenceRow]:
    for pairs in zip(*soft, strict=True):
        prediction = parts.module.post_processing(averaged([found for found, _ in pairs]))
        for metric in parts.module.metrics:
            yield from metric.rows(prediction, pairs[0][1])


def _new_record(members: Sequence[tuple[Run, Parts]], axes: dict[str, str]) -> Record:
    first, parts = members[0]
    tests = {tuple(case.case_id for case in own.data.parts.test) for _, own in members}
    if tests == {()}:
        raise UsageError(
            f"{first.record.study} has no test part: each held-out case was learnt by the other folds, so that an "
            "ensemble cannot be judged; set one apart with dataset.split.test=0.2"
        )
    if len(tests) > 1 or len({own.data.hash for _, own in members}) > 1:
        raise UsageError(f"the runs of {', '.join(run.path.name for run, _ in members)} have other data or test parts")
    prints = [run.record.fingerprint for run, _ in members]
    return Record(
        study=first.record.study,
        axes=axes,
        status=Status.FINISHED,
        versions=environment.versions(),
        hardware=environment.hardware(),
        threads=first.record.threads,
        precision=first.record.precision,
        determinism=first.record.determinism,
        checkpoint=first.record.checkpoint.split(":")[0],
        part=_TEST,
        metrics={metric.name: metric.definition() for metric in parts.module.metrics},
        started=now(),
        notes=[f"ensemble of {', '.join(run.path.name for run, _ in members)}"],
        fingerprint={
            **prints[0],
            "split": hash_plain(sorted(next(iter(tests)))),
            "initial_weights": hash_plain([own["initial_weights"] for own in prints]),
            "data_order": hash_plain([own["data_order"] for own in prints]),
        },
    )


def _write(folder: RunFolder, record: Record, member: tuple[Run, Parts], evidence: Sequence[EvidenceRow]) -> None:
    """The record as a run's, without what only a training has; run.json last, so that it is there as a whole."""
    run, parts = member
    config = plain(run.config) | {"axes": record.axes}
    write_text(folder.config, OmegaConf.to_yaml(OmegaConf.create(config)))
    write_json(folder.path / "split.json", parts.data.parts.as_plain())
    write_evidence(evidence, parts.module.metrics, folder, part=_TEST)
    folder.write(record)
