"""All checks of a dataset in one pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from medexp.core.errors import DataError
from medexp.core.faults import Fault, Severity
from medexp.core.types import Case, Source
from medexp.data.integrity import boxes, grids, labels, pixels
from medexp.data.integrity.across import channel_order, class_absent, equal_images
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import Demands, Training
from medexp.data.integrity.listing import listing_faults
from medexp.data.integrity.measurement import Measurement
from medexp.data.integrity.policy import Mode, Policy
from medexp.data.integrity.reading import CaseReader, Progress
from medexp.data.integrity.report import Report, in_order
from medexp.data.integrity.splitting import known_from, split_cases
from medexp.data.integrity.store import Store
from medexp.data.splits import Parts, Split, informed

_OF_A_CASE = (
    grids.wrong_dimensions,
    pixels.wrong_channels,
    pixels.not_finite,
    pixels.constant,
    pixels.wrapped,
    pixels.hounsfield,
    grids.implausible_spacing,
    grids.extreme_anisotropy,
    grids.smaller_than_patch,
    labels.unannotated,
    labels.lossy_mask,
    labels.undeclared_labels,
    labels.empty_label,
    labels.instance_ids,
    labels.disconnected_instances,
    boxes.box_faults,
)


def check_dataset(
    source: Source,
    *,
    split: Split | None = None,
    fold: int = 0,
    policy: Policy | None = None,
    training: Training | None = None,
    store: Store | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check every case of a dataset, and the cases against each other, before anything is told.

    Args:
        source: Lists and reads the cases.
        split: Divides them; None where they are not divided.
        fold: Number of the fold that is held out.
        policy: How grave each fault is, and what an error does; each check's own severity unless given.
        training: What training asks of the images, as far as it is known.
        store: Where measurements of earlier checks lie; None reads every case.
        processes: How many read cases together; None: as many as there are cores, once it pays.
        progress: Is told how many of how many cases are read.

    Returns:
        The report; it raises nothing about the data.

    Raises:
        UsageError: The split has no such fold.
    """
    policy, training = policy or Policy(), training or Training()
    try:
        cases, demands = source.cases(), Demands.of(source, training)
    except DataError as error:
        return unlistable(source.name, error, policy=policy)
    listed = list(listing_faults(cases))
    reader = CaseReader(source, store=store, processes=processes, progress=progress)
    found = reader.measured(cases)
    measured = [(case, seen) for case, seen in zip(cases, found, strict=True) if isinstance(seen, Measurement)]
    known = known_from(demands.used_labels, measured)
    asking = None if split is None else informed(split, known)
    parts, of_split = split_cases(cases, listed, asking, fold=fold, policy=policy)
    of_source = [one for case in cases for one in case.faults]
    refused = [one for one in of_source if one.severity is Severity.ERROR]
    refused += [one for seen in found if isinstance(seen, tuple) for one in seen]
    faults = [
        *(one for one in of_source if one.severity is Severity.WARNING),
        *listed,
        *of_split,
        *grids.patch_not_divisible(demands),
        *(one for case, seen in measured for one in (*seen.told, *_of_case(case, seen, demands))),
        *equal_images(measured, parts),
        *class_absent(measured, parts, demands),
        *channel_order(measured, demands),
    ]
    # A case that its source refuses cannot be used, whatever is said of such faults.
    told = in_order([*dict.fromkeys(refused), *policy.judged(faults)])
    return Report(source.name, policy.mode, tuple(cases), told, parts, reader.n_read, known)


def _of_case(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    for check in _OF_A_CASE:
        yield from check(case, seen, demands)


def unlistable(name: str, error: DataError, *, policy: Policy) -> Report:
    """The report of a dataset that cannot list its cases.

    Args:
        name: Name of the dataset.
        error: What its source says.
        policy: What an error does.

    Returns:
        A report whose faults are those of the error.
    """
    found, _, remedy = str(error).rpartition("; ")
    quoted = fault("unlistable", expected="to list its cases", found=f"an error: {found or error}", remedy=remedy)
    return Report(name, policy.mode, faults=in_order(policy.judged(error.faults or (quoted,))))


def checked_parts(report: Report) -> Parts:
    """The parts that a training may use.

    Args:
        report: What a check with a split found.

    Returns:
        The parts as they were split, without the cases that are left out.

    Raises:
        DataError: Names every error, unless errors are only told; and what is wrong with no single case where cases are
            left out.
    """
    left_out = set(report.quarantined)
    stopping = [one for one in report.errors if one.case_id is None or one.case_id not in left_out]
    if report.parts is None or (stopping and report.mode is not Mode.WARN):
        raise _stop(report, stopping or list(report.errors))
    if not left_out:
        return report.parts
    kept = {
        name: tuple(case for case in getattr(report.parts, name) if case.case_id not in left_out)
        for name in ("train", "val", "test")
    }
    if not kept["train"]:
        raise _stop(report, list(report.errors))
    return replace(report.parts, **kept)


def _stop(report: Report, errors: list[Fault]) -> DataError:
    """The error of all that is wrong, with what can be done about all of it."""
    remedies = "`medexp data check` shows them with pictures"
    if report.mode is Mode.ERROR:
        remedies += "; dataset.integrity=quarantine leaves such cases out"
    error = DataError.of(*errors)
    told = DataError(f"{error}\n{report.summary()}; {remedies}")
    told.faults = error.faults
    return told
