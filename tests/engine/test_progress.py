from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console

from medexp.core.errors import UsageError
from medexp.core.types import Batch
from medexp.engine import watch as watch_module
from medexp.engine.pace import Pace, Status, format_duration, format_status, total_epochs, total_steps
from medexp.engine.progress import Progress

IMAGES_PER_BATCH = 2


class Batches:
    """A loader of a fixed number of batches."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        for index in range(self.count):
            names = tuple(f"case_{index}_{i}" for i in range(IMAGES_PER_BATCH))
            yield Batch(images=torch.full((IMAGES_PER_BATCH, 1, 4), float(index)), targets=None, case_ids=names)


class Module(pl.LightningModule):
    """Its loss is 2.5 always, its metric 0.75."""

    def __init__(self, *, on_batch: Callable[[], None] = lambda: None, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.on_batch = on_batch
        self.fail_at = fail_at

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        self.on_batch()
        if batch_idx == self.fail_at:
            raise ValueError("the loss exploded")
        return self.weight * batch.images.sum() * 0 + 2.5

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.on_batch()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.on_batch()

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        self.on_batch()

    def on_validation_epoch_end(self) -> None:
        self.log("dice", 0.75)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def tick(self, seconds: float) -> Callable[[], None]:
        def advance() -> None:
            self.now_s += seconds

        return advance


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch_module, "monotonic", clock)
    return clock


@pytest.fixture(autouse=True)
def _only_our_warnings() -> Iterator[None]:
    # Lightning's advice on workers and loggers concerns its users, not the display.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        warnings.filterwarnings("ignore", module="lightning_fabric")
        yield


def trainer(callback: Progress, folder: Path, **knobs: Any) -> pl.Trainer:
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    return pl.Trainer(callbacks=[callback], default_root_dir=folder, **quiet | knobs)


def plain() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=False, width=200), stream


def terminal() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=120, _environ={}), stream


def drawn(stream: io.StringIO) -> list[str]:
    """What stood on the terminal's line after each drawing, without control codes and bar."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    return [re.sub(r"[━╸╺ ]+$", "", line) for line in re.split(r"[\r\n]+", text) if line.strip()]


def test_line_names_epoch_step_loss_metric_rate_and_time_left() -> None:
    status = Status(
        epoch=3, epochs=20, step=300, steps=2000, loss=0.4121, metric="dice", value=0.83, images_per_s=52.13, left_s=192
    )
    assert format_status(status) == "epoch 3/20  step 300/2000  loss 0.412  dice 0.83  52.1 images/s  3:12 left"


def test_line_leaves_out_what_is_not_known() -> None:
    assert format_status(Status(epoch=1, step=5)) == "epoch 1  step 5"


def test_line_shows_a_metric_that_was_not_logged_yet_as_a_dash() -> None:
    assert format_status(Status(epoch=1, metric="dice")) == "epoch 1  dice -"


def test_line_of_an_evaluation_counts_batches() -> None:
    assert format_status(Status(stage="test", batch=4, batches=12, images_per_s=1.5)) == "test 4/12  1.5 images/s"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (2.5, "2.5"),
        (0.99951, "1"),
        (12345.6, "12346"),
        (-0.25, "-0.25"),
        (1e-5, "1e-05"),
        (3.2e9, "3.2e+09"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert format_status(Status(loss=value)) == f"loss {shown}"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90000, "1 d 1:00:00"),
        (86400, "1 d 0:00:00"),
        (-3, "0:00"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert format_duration(seconds) == shown


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "batches", "accumulate", "steps"),
    [
        (100, -1, 7, 1, 100),
        (-1, 3, 7, 1, 21),
        (-1, 3, 7, 2, 12),
        (10, 3, 7, 1, 10),
        (100, 3, 7, 1, 21),
        (-1, 3, math.inf, 1, None),
        (-1, -1, 7, 1, None),
        (50, 3, math.inf, 1, 50),
    ],
)
def test_total_steps(max_steps: int, max_epochs: int, batches: float, accumulate: int, steps: int | None) -> None:
    found = total_steps(max_steps=max_steps, max_epochs=max_epochs, batches_per_epoch=batches, accumulate=accumulate)
    assert found == steps


def test_epochs_follow_from_steps_where_only_those_are_limited() -> None:
    assert total_epochs(steps=15, batches_per_epoch=7, accumulate=1) == 3
    assert total_epochs(steps=None, batches_per_epoch=7, accumulate=1) is None
    assert total_epochs(steps=15, batches_per_epoch=math.inf, accumulate=1) is None


def test_pace_forgets_what_is_older_than_its_window() -> None:
    pace = Pace(now_s=0.0)
    now_s = 0.0
    for step in range(1, 101):
        now_s += 10.0
        pace.add(now_s=now_s, step=step, images=1)
    for step in range(101, 401):
        now_s += 1.0
        pace.add(now_s=now_s, step=step, images=4)
    assert pace.images_per_s == pytest.approx(4.0)
    assert pace.left_s(500, now_s=now_s) == pytest.approx(100.0)


def test_pace_of_slow_steps_rests_on_several() -> None:
    pace = Pace(now_s=0.0)
    for step in range(1, 21):
        pace.add(now_s=step * 300.0, step=step, images=3)
    assert pace.images_per_s == pytest.approx(0.01)


def test_a_pause_lowers_no_rate_but_lengthens_the_time_left() -> None:
    pace = Pace(now_s=0.0)
    for step in range(1, 51):
        pace.add(now_s=float(step), step=step, images=2)
    pace.pause(now_s=50.0)
    pace.go_on(now_s=100.0)
    assert pace.images_per_s == pytest.approx(2.0)
    assert pace.left_s(100, now_s=100.0) == pytest.approx(50 * 2.0)


def test_pace_is_unknown_before_two_batches() -> None:
    pace = Pace(now_s=0.0)
    pace.add(now_s=1.0, step=1, images=2)
    assert pace.images_per_s is None
    assert pace.left_s(10, now_s=1.0) is None


def test_a_log_file_gets_one_line_per_epoch(tmp_path: Path, clock: Clock) -> None:
    console, stream = plain()
    callback = Progress(metric="dice", line_every_s=0.0, console=console)
    module = Module(on_batch=clock.tick(0.5))
    trainer(callback, tmp_path, max_epochs=3).fit(module, Batches(4), Batches(2))
    # A step takes 0.5 s for 2 images. An epoch takes 2 s and its validation 1 s.
    assert stream.getvalue().splitlines() == [
        "epoch 1/3  step 4/12  loss 2.5  dice 0.75  4 images/s  0:06 left",
        "epoch 2/3  step 8/12  loss 2.5  dice 0.75  4 images/s  0:03 left",
        "epoch 3/3  step 12/12  loss 2.5  dice 0.75  4 images/s  0:00 left",
    ]


def test_lines_keep_their_distance_and_the_last_state_is_printed(tmp_path: Path, clock: Clock) -> None:
    console, stream = plain()
    callback = Progress(line_every_s=5.0, console=console)
    trainer(callback, tmp_path, max_epochs=8).fit(Module(on_batch=clock.tick(1.0)), Batches(2))
    steps = [int(found) for found in re.findall(r"step (\d+)/16", stream.getvalue())]
    assert steps == [2, 8, 14, 16]


def test_a_terminal_gets_a_bar_that_is_drawn_at_most_twice_a_second(tmp_path: Path, clock: Clock) -> None:
    console, stream = terminal()
    callback = Progress(metric="dice", console=console)
    trainer(callback, tmp_path, max_epochs=1).fit(Module(on_batch=clock.tick(0.1)), Batches(100))
    shown = drawn(stream)
    assert "\x1b[" in stream.getvalue()
    assert "━" in stream.getvalue()
    assert any(line.startswith("epoch 1/1  step 51/100  loss 2.5  dice -  20 images/s  0:05 left") for line in shown)
    # 10 s at two a second, the first, the epoch's end and the run's end; the terminal's line is left at the end.
    assert len(re.findall(r"epoch", stream.getvalue())) <= 10 * 2 + 1 + 2 + 2
    assert shown[-1].startswith("epoch 1/1  step 100/100")


def test_a_terminal_shows_how_far_the_validation_is(tmp_path: Path, clock: Clock) -> None:
    console, stream = terminal()
    callback = Progress(metric="dice", console=console)
    trainer(callback, tmp_path, max_epochs=1).fit(Module(on_batch=clock.tick(1.0)), Batches(2), Batches(5))
    assert any("validation 3/5" in line for line in drawn(stream))


def test_a_narrow_terminal_cuts_the_line_and_does_not_wrap_it(tmp_path: Path, clock: Clock) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=40, _environ={})
    callback = Progress(metric="dice", console=console)
    trainer(callback, tmp_path, max_epochs=1).fit(Module(on_batch=clock.tick(1.0)), Batches(3))
    assert all(len(line) <= 40 for line in drawn(stream))
    assert drawn(stream)[-1].startswith("epoch 1/1  step 3/3  loss 2.5")


def test_brackets_in_a_metrics_name_are_no_markup(tmp_path: Path, clock: Clock) -> None:
    console, stream = terminal()
    callback = Progress(metric="dice[bold]", console=console)
    trainer(callback, tmp_path, max_epochs=1).fit(Module(on_batch=clock.tick(1.0)), Batches(3))
    assert "dice[bold] -" in drawn(stream)[-1]


def test_after_a_resume_the_rate_counts_only_new_steps(tmp_path: Path, clock: Clock) -> None:
    knobs = {"enable_progress_bar": True}
    first = trainer(Progress(console=plain()[0]), tmp_path, max_epochs=5, **knobs)
    first.fit(Module(on_batch=clock.tick(100.0)), Batches(4))
    first.save_checkpoint(tmp_path / "last.ckpt")
    console, stream = plain()
    second = trainer(Progress(line_every_s=0.0, console=console), tmp_path, max_epochs=7, **knobs)
    second.fit(Module(on_batch=clock.tick(1.0)), Batches(4), ckpt_path=tmp_path / "last.ckpt")
    assert stream.getvalue().splitlines() == [
        "epoch 6/7  step 24/28  loss 2.5  2 images/s  0:04 left",
        "epoch 7/7  step 28/28  loss 2.5  2 images/s  0:00 left",
    ]


def test_accumulated_batches_count_as_one_step_and_keep_the_loss(tmp_path: Path, clock: Clock) -> None:
    console, stream = plain()
    callback = Progress(line_every_s=0.0, console=console)
    trainer(callback, tmp_path, max_epochs=1, accumulate_grad_batches=3).fit(
        Module(on_batch=clock.tick(1.0)), Batches(7)
    )
    assert stream.getvalue().startswith("epoch 1/1  step 3/3  loss 2.5  2 images/s")


def test_a_run_limited_in_steps_shows_them(tmp_path: Path, clock: Clock) -> None:
    console, stream = plain()
    callback = Progress(line_every_s=0.0, console=console)
    trainer(callback, tmp_path, max_steps=6).fit(Module(on_batch=clock.tick(1.0)), Batches(4))
    assert [line[:20] for line in stream.getvalue().splitlines()] == ["epoch 1/2  step 4/6 ", "epoch 2/2  step 6/6 "]


def test_the_loss_is_read_only_when_it_is_drawn(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read = torch.Tensor.__float__
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: reads.append(clock.now_s) or read(tensor))
    callback = Progress(console=terminal()[0])
    trainer(callback, tmp_path, max_epochs=1).fit(Module(on_batch=clock.tick(0.01)), Batches(200))
    # 200 steps in 2 s: the first, four in passing, and the ends of epoch and run.
    assert 0 < len(reads) <= 7


@pytest.mark.parametrize(("verb", "name"), [("validate", "validation"), ("test", "test"), ("predict", "prediction")])
def test_an_evaluation_alone_is_shown(tmp_path: Path, clock: Clock, verb: str, name: str) -> None:
    console, stream = plain()
    callback = Progress(line_every_s=2.0, console=console)
    run = getattr(trainer(callback, tmp_path), verb)
    run(Module(on_batch=clock.tick(1.0)), Batches(6), **({} if verb == "predict" else {"verbose": False}))
    assert stream.getvalue().splitlines() == [
        f"{name} 1/6",
        f"{name} 3/6  2 images/s  0:03 left",
        f"{name} 5/6  2 images/s  0:01 left",
        f"{name} 6/6  2 images/s  0:00 left",
    ]


def test_the_sanity_check_is_not_shown(tmp_path: Path, clock: Clock) -> None:
    console, stream = plain()
    callback = Progress(line_every_s=0.0, console=console)
    fit = trainer(callback, tmp_path, max_epochs=1, num_sanity_val_steps=2)
    fit.fit(Module(on_batch=clock.tick(1.0)), Batches(2), Batches(2))
    assert len(stream.getvalue().splitlines()) == 1


def test_the_terminal_is_given_back_after_an_error(tmp_path: Path, clock: Clock) -> None:
    console, stream = terminal()
    callback = Progress(console=console)
    with pytest.raises(ValueError, match="the loss exploded"):
        trainer(callback, tmp_path, max_epochs=1).fit(Module(on_batch=clock.tick(1.0), fail_at=3), Batches(5))
    # The cursor, hidden while the bar is alive, is shown again.
    assert stream.getvalue().rindex("\x1b[?25h") > stream.getvalue().rindex("\x1b[?25l")


def test_disabled_it_prints_nothing(tmp_path: Path) -> None:
    console, stream = plain()
    callback = Progress(line_every_s=0.0, console=console)
    callback.disable()
    trainer(callback, tmp_path, max_epochs=1).fit(Module(), Batches(2))
    assert stream.getvalue() == ""


def test_a_negative_distance_between_lines_is_refused() -> None:
    with pytest.raises(UsageError, match="line_every_s needs seconds of at least 0, got -1"):
        Progress(line_every_s=-1.0)
