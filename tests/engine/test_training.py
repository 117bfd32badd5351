"""What a training step does: accumulation, clipping, precision, averages, where it starts and what it leaves alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import MedexpError, UsageError
from medexp.core.record import Status
from medexp.engine.build import build
from medexp.engine.checkpoints import CheckpointFolder, VerifiedCheckpointIO, load_checkpoint
from medexp.engine.run import Run


def _weights(run: Run) -> dict[str, torch.Tensor]:
    newest = CheckpointFolder(run.folder.checkpoints).newest()
    assert newest is not None
    weights: dict[str, torch.Tensor] = load_checkpoint(newest)["state_dict"]
    return weights


def _assert_close(one: Run, other: Run, *, tolerance: float) -> None:
    for name, value in _weights(one).items():
        torch.testing.assert_close(value, _weights(other)[name], rtol=0, atol=tolerance, msg=name)


def test_accumulated_batches_equal_the_large_batch(tmp_path: Path) -> None:
    # Instance normalisation and a mean over samples: the gradient of 4 is the mean of those of 4 times 1.
    knobs = ("optimizer=sgd", "optimizer.lr=0.1", "trainer.max_steps=3")
    large = train_tiny(tmp_path / "large", *knobs, "dataset.batch_size=4", "trainer.steps_per_epoch=3")
    small = train_tiny(
        tmp_path / "small", *knobs, "dataset.batch_size=1", "trainer.accumulate=4", "trainer.steps_per_epoch=3"
    )
    _assert_close(large, small, tolerance=1e-6)
    np.testing.assert_allclose(large.history["train/loss"], small.history["train/loss"], rtol=1e-5)
    initial = build(medexp.compose(None, tiny(tmp_path / "large", *knobs))).module.state_dict()
    moved = max(float((initial[name] - value).abs().max()) for name, value in _weights(large).items())
    assert moved > 1e-3


def test_gradient_clipping_bounds_the_step(tmp_path: Path) -> None:
    knobs = ("optimizer=sgd", "optimizer.lr=1.0", "scheduler=constant", "trainer.max_steps=1")
    clipped = train_tiny(tmp_path / "clipped", *knobs, "trainer.gradient_clip_norm=0.01")
    initial = build(medexp.compose(None, tiny(tmp_path / "clipped", *knobs))).module.state_dict()
    moved = torch.sqrt(sum(((initial[name] - value) ** 2).sum() for name, value in _weights(clipped).items()))
    assert float(moved) == pytest.approx(0.01, rel=1e-3)


def test_mixed_precision_follows_the_curve_of_fp32(tmp_path: Path) -> None:
    full, mixed = (
        train_tiny(
            tmp_path / precision,
            f"precision={precision}",
            "trainer.max_epochs=12",
            "model.channels=[8,16]",
            "optimizer.lr=0.01",
            "dataset.batch_size=2",
        )
        for precision in ("32-true", "bf16-mixed")
    )
    ours, reference = (run.history["train/loss"].to_numpy() for run in (mixed, full))
    assert reference[-1] < 0.8 * reference[0]
    assert not np.array_equal(ours, reference)
    np.testing.assert_allclose(ours, reference, atol=0.05)


def test_losses_are_computed_in_fp32_under_mixed_precision(tmp_path: Path) -> None:
    parts = build(medexp.compose(None, tiny(tmp_path / "runs")))
    seen: list[torch.dtype] = []
    parts.module.task.loss_function.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].dtype))
    batch = next(iter(parts.data.train_dataloader()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = parts.module.model(batch.images)["semantic"].dtype
        parts.module.training_step(batch, 0)
    assert (inside, seen) == (torch.bfloat16, [torch.float32])


@pytest.mark.parametrize("norm", [torch.nn.InstanceNorm3d, torch.nn.BatchNorm3d])
def test_normalisation_statistics_are_fp32_under_autocast(norm: type[torch.nn.Module]) -> None:
    # bf16 has 8 bits: statistics of values around 100 that were summed in it would be off by whole units.
    values = 100 + torch.randn(2, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    layer = norm(3, affine=True)
    rounded = values.bfloat16()
    exact = norm(3, affine=True)(rounded.double().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(rounded)
    assert float((mixed.float() - exact).detach().abs().max()) < 0.05


def test_init_from_starts_from_the_last_weights_of_a_run(tmp_path: Path) -> None:
    first = train_tiny(tmp_path / "first", "trainer.max_epochs=1")
    config = medexp.compose(None, tiny(tmp_path / "second", f"init_from={first.path.as_posix()!r}", "seed=5"))
    module = build(config).module
    for name, value in _weights(first).items():
        assert torch.equal(module.state_dict()[name], value)


def test_init_from_another_architecture_is_refused_and_names_the_parameters(tmp_path: Path) -> None:
    first = train_tiny(tmp_path / "first", "trainer.max_epochs=1")
    start = f"init_from={first.path.as_posix()!r}"
    with pytest.raises(UsageError, match=r"class count.*init_skip"):
        build(medexp.compose(None, tiny(tmp_path / "second", start, "model.channels=[6,8]")))
    skipped = tiny(tmp_path / "third", start, "model.channels=[6,8]", "init_skip=['*']")
    assert build(medexp.compose(None, skipped))


def test_frozen_parameters_stay_and_the_others_move(tmp_path: Path) -> None:
    knobs = ("trainer.max_epochs=1", "freeze=[network.model.0.*]")
    run = train_tiny(tmp_path / "runs", *knobs)
    initial = build(medexp.compose(None, tiny(tmp_path / "runs", *knobs))).module.state_dict()
    same = {name: torch.equal(initial[name], value) for name, value in _weights(run).items()}
    assert all(equal == name.startswith("model.network.model.0.") for name, equal in same.items())


def test_a_freeze_pattern_without_match_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="matches no parameter"):
        build(medexp.compose(None, tiny(tmp_path / "runs", "freeze=[network.modle.*]")))


def test_the_average_of_the_weights_is_that_of_all_steps_and_results_come_from_it(tmp_path: Path) -> None:
    knobs = ("trainer.max_epochs=2", "trainer.checkpoints.every_steps=1", "trainer.checkpoints.keep_last=100")
    run = train_tiny(tmp_path / "runs", *knobs, "callbacks=ema", "callbacks.ema.decay=0.7")
    folder = CheckpointFolder(run.folder.checkpoints)
    steps = [load_checkpoint(folder.path / name)["current_model_state"] for name in sorted(folder.index())]
    assert len(steps) == run.history["step"].max()
    average = steps[0]
    for weights in steps[1:]:
        average = {name: 0.7 * average[name] + 0.3 * value for name, value in weights.items()}
    for name, value in run.module().state_dict().items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_not_finite_ends_the_run_as_failed(tmp_path: Path) -> None:
    knobs = ("optimizer=sgd", "optimizer.lr=1e38", "trainer.gradient_clip_norm=null", "trainer.max_epochs=4")
    with pytest.raises(MedexpError, match=r"loss is .* at step"):
        train_tiny(tmp_path / "runs", *knobs)
    (path,) = (item.parent for item in (tmp_path / "runs").glob("*/*/run.json"))
    record = medexp.load_run(path).record
    assert record.status is Status.FAILED
    assert "loss is" in (record.error or "")


def test_a_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(MedexpError, match="could not be written"):
        VerifiedCheckpointIO().save_checkpoint({"state_dict": {}}, blocked / "a.ckpt")


def test_a_checkpoint_that_would_need_to_run_code_is_an_error_when_it_is_written(tmp_path: Path) -> None:
    with pytest.raises(MedexpError, match="could not be written"):
        VerifiedCheckpointIO().save_checkpoint({"state": Path("a")}, tmp_path / "a.ckpt")


def test_only_the_newest_checkpoints_are_kept_and_the_best_one_is_marked_as_biased(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "runs",
        "trainer.max_epochs=4",
        "trainer.validate_every_epochs=1",
        "trainer.checkpoint=best",
        "trainer.checkpoints.keep_best=true",
        "trainer.checkpoints.every_epochs=1",
        "trainer.checkpoints.keep_last=2",
    )
    roles = [entry["role"] for entry in CheckpointFolder(run.folder.checkpoints).index().values()]
    assert sorted(roles) == ["best", "last", "last"]
    files = {path.name for path in run.folder.checkpoints.glob("*.ckpt")}
    assert files == set(CheckpointFolder(run.folder.checkpoints).index())
    assert run.results["dice"]["mean"] == pytest.approx(run.history["val/dice/mean"].max(), abs=1e-12)
    assert any(note.startswith("biased") for note in run.record.notes)


def test_auto_precision_is_resolved_once_per_study_and_recorded(tmp_path: Path) -> None:
    knobs = ("trainer.max_epochs=1", "precision=auto", "threads=auto", "dataset.workers=auto")
    one = train_tiny(tmp_path / "runs", *knobs)
    two = train_tiny(tmp_path / "runs", *knobs, "seed=1")
    assert one.record.precision == two.record.precision == one.config.precision
    assert one.record.precision in ("32-true", "bf16-mixed", "16-mixed")
    pinned = (one.path.parent / "study.json").read_text()
    assert one.record.precision in pinned
    assert "reason" in pinned
    assert one.config.dataset.workers == two.config.dataset.workers == 0
