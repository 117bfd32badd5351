"""The parameters of every training sample, as a run records them."""

import json
from pathlib import Path

from tiny import train_tiny

from medexp.engine.build import build
from medexp.engine.run import Run

KNOBS = ("augmentation=light", "callbacks=augmentation_log", "trainer.steps_per_epoch=3", "dataset.batch_size=2")


def _rows(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.path / "augmentation.jsonl").read_text().splitlines()]


def test_each_sample_is_on_record_with_what_it_was_made_from(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "runs", *KNOBS, "trainer.max_epochs=2")
    rows = _rows(run)
    samples = build(run.config).data.samples
    assert [row["sample"] for row in rows] == list(range(12))
    assert rows == [json.loads(json.dumps(samples.parameters_of(number))) for number in range(12)]
    assert len({json.dumps(row["intensities"]) for row in rows}) > 1
