"""The last frames of each sequence are held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Case
from medexp.data.splits.dealing import members_of_groups
from medexp.data.splits.parts import Parts, check_only_fold, set_apart

FRAME = "frame"  # in the facts of a case


class LaterFrames:
    """The later frames of each group (sequence) are held out; the network learns from the earlier ones.

    This says how well the same sequence goes on, for which its beginning was annotated, and nothing of other sequences:
    neighbouring frames show the same objects. Results count each sequence as one independent unit. Cases that the
    dataset sets apart as "test" stay apart.

    Args:
        val: Share of each sequence's frames that is held out, rounded to whole frames, one at least.
        gap: So many frames before them are left out of both parts.

    Raises:
        UsageError: A knob has an unfit value.
    """

    def __init__(self, *, val: float, gap: int = 0) -> None:
        if not 0 < val < 1:
            raise UsageError(f"dataset.split.val needs a share above 0 and below 1, got {val}")
        if gap < 0:
            raise UsageError(f"dataset.split.gap needs 0 or more frames, got {gap}")
        self.val = val
        self.gap = gap

    def __call__(self, cases: Sequence[Case], *, fold: int) -> Parts:
        """The parts.

        Args:
            cases: All cases of the dataset.
            fold: Has to be 0.

        Returns:
            The parts, with the cases in the order of the dataset; held-out frames are a group of their own, named after
            the sequence and their first frame.

        Raises:
            UsageError: Another fold is asked for.
            DataError: Cases are no frames, or nothing is left to learn from.
        """
        check_only_fold(fold, split="later_frames", instead="hold out another share (dataset.split.val)")
        learning, test = set_apart(cases)
        home: dict[str, tuple[str, str]] = {}
        for group, frames in members_of_groups(learning).items():
            ordered = sorted(frames, key=_frame)
            first = len(ordered) - max(round(self.val * len(ordered)), 1)
            earlier, later = ordered[: max(first - self.gap, 0)], ordered[first:]
            home |= {case.case_id: ("train", group) for case in earlier}
            home |= {case.case_id: ("val", f"{group} from {_frame(later[0])}") for case in later}
        placed = [(home[case.case_id], case) for case in learning if case.case_id in home]
        train, val = (
            tuple(replace(case, group=group) for (part, group), case in placed if part == name)
            for name in ("train", "val")
        )
        return Parts(train=train, val=val, test=test)


def _frame(case: Case) -> int:
    if FRAME not in case.facts:
        raise DataError(
            f"case {case.case_id} is no frame of a sequence, and dataset/split=later_frames divides sequences; choose "
            "another split, or dataset=tracks"
        )
    return int(case.facts[FRAME])
