"""R2U-Net and BCDU-Net against the equations of their papers, written out on their own weights."""

from __future__ import annotations

import pytest
import torch

from medexp.models.bcdunet import DenseBottleneck, RecurrentJoin
from medexp.models.blocks import Layers
from medexp.models.r2unet import RecurrentConvolution, RecurrentResidual

torch.set_num_threads(1)
BOTH = pytest.mark.parametrize("dims", [2, 3])


def layers(dims: int) -> Layers:
    return Layers(dims=dims, kernel_shape="square", pooling="max", norm="none", activation="relu", dropout=None)


def maps(dims: int, channels: int) -> torch.Tensor:
    return torch.randn(1, channels, *[4] * dims)


@BOTH
@pytest.mark.parametrize("steps", [1, 3])
def test_a_recurrent_convolution_adds_what_it_gave_a_step_before(dims: int, steps: int) -> None:
    unit = RecurrentConvolution(layers=layers(dims), channels=3, kernel=[3] * dims, steps=steps)
    x = maps(dims, 3)
    y = unit.from_input(x).relu()
    for _ in range(steps):
        y = (unit.from_input(x) + unit.from_state(y)).relu()
    torch.testing.assert_close(unit(x), y)


def test_each_step_of_a_recurrent_convolution_has_a_normalisation_of_its_own() -> None:
    style = Layers(dims=2, kernel_shape="square", pooling="max", norm="batch", activation="relu", dropout=None)
    unit = RecurrentConvolution(layers=style, channels=3, kernel=[3, 3], steps=2)
    unit.train()(maps(2, 3))
    means = [module.running_mean for module in unit.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(means) == 3
    assert not torch.equal(means[0], means[1])


@BOTH
def test_a_recurrent_residual_block_lets_the_map_pass_around(dims: int) -> None:
    block = RecurrentResidual(layers=layers(dims), in_channels=2, out_channels=3, kernel=[3] * dims, convs=2, steps=2)
    x = block.entry(maps(dims, 2))
    first, second = block.recurrent
    torch.manual_seed(0)
    block.entry = torch.nn.Identity()
    torch.testing.assert_close(block(x), x + second(first(x)))


@BOTH
def test_a_join_ends_each_direction_at_the_other_map(dims: int) -> None:
    join = RecurrentJoin(layers=layers(dims), channels=4, kernel_size=3)
    skip, risen = maps(dims, 4), maps(dims, 4)
    onward, back = join.rnn.runs
    pair = [skip, risen.relu()]
    ends = [
        run(torch.stack(order, dim=1), backward=False)[:, -1] for run, order in ((onward, pair), (back, pair[::-1]))
    ]
    torch.testing.assert_close(join(skip, risen), join.projection(torch.cat(ends, dim=1)).tanh())


@BOTH
def test_a_dense_bottleneck_shows_each_block_the_results_of_all_before_it(dims: int) -> None:
    dense = DenseBottleneck(layers=layers(dims), in_channels=2, out_channels=3, kernel=[3] * dims, convs=2, blocks=3)
    x = maps(dims, 2)
    first = dense.blocks[0](x)
    second = dense.blocks[1](first)
    torch.testing.assert_close(dense(x), dense.blocks[2](torch.cat([first, second], dim=1)))
