"""A sequence whose beginning is learned and whose end is judged, tracked and told to Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import medexp


@pytest.mark.usefixtures("fresh_wandb")
def test_the_end_of_a_sequence_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for frame in range(6):
        cells = np.zeros((32, 32), np.uint16)
        cells[4 : 12 + frame, 4:12], cells[20:28, 16:24] = 1, 2
        for folder, values in (("01/t", 900 * cells), ("01_GT/SEG/man_seg", cells), ("01_GT/TRA/man_track", cells)):
            path = tmp_path / "data" / f"{folder}{frame:03d}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, values, photometric="minisblack")
    (tmp_path / "data" / "01_GT" / "TRA" / "man_track.txt").write_text("1 0 5 0\n2 0 5 0\n")
    config = medexp.compose(None, [
        "dataset=ctc_fluo_n2dh_sim", f"dataset.root={tmp_path / 'data'}", "dataset/split=later_frames",
        "task=instance/split", "post_processing=[argmax,components]", "metrics=[pq]", "dataset.patch_size=[32,32]",
        "dataset.batch_size=1", "dataset.workers=0", "model.channels=[4,8]", "model.strides=[2]",
        "model.num_res_units=0", "precision=32-true", "threads=1", "trainer.max_steps=2", "overlays=0",
        "tracking=wandb", "tracking.tracker.system_metrics=false", f"paths.runs={tmp_path / 'runs'}",
        f"paths.cache={tmp_path / 'cache'}",
    ])  # fmt: skip
    run = medexp.train(config)
    assert sorted(run.cases["case_id"]) == ["01_t004", "01_t005"]
    assert set(run.cases["group"]) == {"01 from 4"}
    assert "not told" not in capsys.readouterr().err + (run.path / "log.txt").read_text()
