from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import image_of, predicted

from medexp.core.errors import UsageError
from medexp.core.record import RunFolder
from medexp.core.types import Case
from medexp.engine.shared_record import HIDDEN_PATH, for_others, hashed
from medexp.engine.tracking import Outcome, Picture, TrackedRun, Tracking

SALT = "00112233445566778899aabbccddeeff"
RUN = TrackedRun(
    folder=Path("here"), id="1a2b3c4d", study="first", name="loss=dice", tags=("semantic",), config={},
    layers=pd.DataFrame(),
)  # fmt: skip


class Heard:
    """A tracker that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []
        self.threads: set[str] = set()

    def start(self, run: TrackedRun) -> None:
        self._hear("start", run.id)

    def log(self, values) -> None:
        self._hear("log", dict(values))

    def show(self, picture: Picture) -> None:
        self._hear("show", picture)

    def finish(self, exit_code: int, outcome: Outcome) -> None:
        self._hear("finish", (exit_code, outcome))

    def abandon(self) -> None:
        self._hear("abandon", None)

    def _hear(self, name: str, what: object) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append((name, what))

    def told(self, name: str) -> list:
        return [what for call, what in self.calls if call == name]


def tracking_of(tracker, **knobs) -> Tracking:
    return Tracking(
        tracker=tracker, **({"media": "auto", "case_ids": "hashed", "every_steps": 1, "patience_s": 10.0} | knobs)
    )


def batch(step: int, loss: float = 0.5) -> dict:
    return {"batch": step - 1, "step": step, "epoch": 0, "lr": 0.1, "images": 2, "loss": loss, "terms": {"dice": 0.4}}


def test_a_run_is_told_in_order_and_in_another_thread():
    heard = Heard()
    tracking = tracking_of(heard)
    tracking.begin(RUN, public=True, rename={})
    tracking.batches([batch(1), {"step": 1, "epoch": 0, "validation": {}}])
    tracking.epoch({"epoch": 0, "train/loss": 0.5, "val/dice/mean": float("nan"), "note": "x"})
    tracking.end(0, Outcome("finished", {"dice": {"mean": 0.5}}))
    assert [name for name, _ in heard.calls] == ["start", "log", "log", "finish"]
    assert heard.told("log") == [
        {"batch/dice": 0.4, "batch/loss": 0.5, "batch/lr": 0.1, "step": 1},
        {"epoch": 0, "train/loss": 0.5},
    ]
    assert heard.told("finish")[0][0] == 0
    assert heard.threads == {"tracking"}


def test_only_the_steps_that_are_due_are_told():
    heard = Heard()
    tracking = tracking_of(heard, every_steps=3)
    tracking.begin(RUN, public=True, rename={})
    tracking.batches([batch(step) for step in range(1, 8)])
    tracking.end(0, Outcome("finished"))
    assert [values["step"] for values in heard.told("log")] == [3, 6]


def test_without_a_tracker_nothing_is_told():
    tracking = tracking_of(None)
    assert not tracking.is_on
    before = threading.active_count()
    tracking.begin(RUN, public=True, rename={})
    tracking.batches([batch(1)])
    tracking.epoch({"epoch": 0})
    tracking.end(0, Outcome("finished"))
    assert threading.active_count() == before


@pytest.mark.parametrize("fails_at", ["start", "log", "show", "finish"])
def test_a_tracker_that_fails_is_told_once_and_left_alone(fails_at, caplog):
    heard = Heard()

    def fail(*arguments):
        raise OSError("no space\nleft on device")

    setattr(heard, fails_at, fail)
    tracking = tracking_of(heard)
    image = image_of((8, 8))
    with caplog.at_level(logging.WARNING, logger="medexp"):
        tracking.begin(RUN, public=True, rename={"case": "other"})
        for step in range(1, 5):
            tracking.batches([batch(step)])
        tracking.case(image, predicted(image, np.ones(image.pixels.shape, dtype=np.int16)), None)
        tracking.end(0, Outcome("finished"))
    assert [record.getMessage() for record in caplog.records] == [
        "tracking failed and ends here; the run's own record is complete: OSError: no space left on device"
    ]
    assert [name for name, _ in heard.calls if name in ("finish", "abandon")] == ["abandon"]


def test_a_tracker_that_hangs_is_waited_for_no_longer_than_allowed(caplog):
    heard, hold = Heard(), threading.Event()
    heard.log = lambda values: hold.wait(30)
    tracking = tracking_of(heard, patience_s=0.2)
    tracking.begin(RUN, public=True, rename={})
    began = time.monotonic()
    tracking.batches([batch(step) for step in range(1, 2000)])
    assert time.monotonic() - began < 5
    with caplog.at_level(logging.WARNING, logger="medexp"):
        tracking.end(0, Outcome("finished"))
    hold.set()
    assert "has not answered for 0.2 s" in caplog.text
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("media", "public", "shown"),
    [("auto", True, True), ("auto", False, False), (True, False, True), (False, True, False)],
)
def test_pictures_are_told_of_public_data_or_where_allowed(media, public, shown):
    heard = Heard()
    tracking = tracking_of(heard, media=media)
    tracking.begin(RUN, public=public, rename={"case": "1234"})
    image = image_of((8, 8))
    tracking.case(image, predicted(image, np.ones(image.pixels.shape, dtype=np.int16)), None)
    tracking.end(0, Outcome("finished"))
    pictures = heard.told("show")
    assert bool(pictures) == shown
    assert all(picture.case == "1234" for picture in pictures)


def test_a_record_that_cannot_be_told_does_not_keep_the_run_open(tmp_path, caplog):
    heard = Heard()
    tracking = tracking_of(heard)
    tracking.begin(RUN, public=True, rename={})
    with caplog.at_level(logging.WARNING, logger="medexp"):
        tracking.end(0, Outcome("finished"), record=RunFolder(tmp_path))
    ((exit_code, outcome),) = heard.told("finish")
    assert (exit_code, outcome.files) == (0, {})
    assert "the tracker is not told the run's record: RecordError" in caplog.text


def test_cases_and_groups_have_other_names():
    heard = Heard()
    tracking = tracking_of(heard)
    cases = [Case(case_id="scan 7", group="Jane Roe", images=())]
    rename = tracking.names_of(cases, salt=SALT)
    tracking.begin(RUN, public=False, rename=rename)
    table = pd.DataFrame({"case_id": ["scan 7"], "group": ["Jane Roe"], "dice/organ": [0.5]})
    tracking.end(0, Outcome("finished", {}, table))
    ((_, outcome),) = heard.told("finish")
    assert outcome.cases.to_dict("list") == {
        "case_id": [rename["scan 7"]], "group": [rename["Jane Roe"]], "dice/organ": [0.5],
    }  # fmt: skip
    assert set(rename.values()).isdisjoint({"scan 7", "Jane Roe"})
    assert table.case_id.tolist() == ["scan 7"]
    assert tracking_of(heard, case_ids="plain").names_of(cases, salt=SALT)["scan 7"] == "scan 7"


def test_a_hashed_name_is_the_same_under_one_salt_and_another_under_another():
    assert hashed("scan 7", salt=SALT) == hashed("scan 7", salt=SALT)
    assert hashed("scan 7", salt=SALT) != hashed("scan 8", salt=SALT)
    assert hashed("scan 7", salt=SALT) != hashed("scan 7", salt=SALT[::-1])


def test_a_configuration_for_others_has_no_paths_and_no_ids():
    config = {
        "init_from": "runs/first/default",
        "task": "instance/split",
        "watched": "val/dice",
        "windows": "C:\\data",
        "overlays": ["p1", "p12"],
        "axes": {"overlays": "[p12,p1]", "loss": "dice_p1"},
        "list": [{"p1": 3}, 4.0, None, True],
    }
    told = for_others(config, harmless={"instance/split", "val/dice"}, rename={"p1": "aaa", "p12": "bbb"})
    assert told == {
        "init_from": HIDDEN_PATH,
        "task": "instance/split",
        "watched": "val/dice",
        "windows": HIDDEN_PATH,
        "overlays": ["aaa", "bbb"],
        "axes": {"overlays": "[bbb,aaa]", "loss": "dice_p1"},
        "list": [{"aaa": 3}, 4.0, None, True],
    }
    assert for_others({"a": "b"}, harmless=set(), rename={}) == {"a": "b"}


@pytest.mark.parametrize(
    ("knob", "value", "told"),
    [
        ("media", "public", "tracking.media needs auto, true or false, got 'public'"),
        ("case_ids", "none", "tracking.case_ids needs hashed or plain, got 'none'"),
        ("every_steps", 0, "tracking.every_steps needs a value >= 1, got 0"),
        ("patience_s", 0.0, "tracking.patience_s needs a value above 0"),
    ],
)
def test_knobs_without_a_meaning_are_refused(knob, value, told):
    with pytest.raises(UsageError, match=told):
        tracking_of(None, **{knob: value})
