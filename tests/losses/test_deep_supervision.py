from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.deep_supervision import DeepSupervision
from medexp.losses.ignore_index import IgnoreIndex

torch.set_num_threads(1)
LOSS = IgnoreIndex(loss=CrossEntropy(sigmoid=False), ignore_index=None)


def levels_of(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, *shape, generator=generator) for shape in shapes]


def target_of(*shape: int) -> torch.Tensor:
    return torch.randint(3, (2, 1, *shape), generator=torch.Generator().manual_seed(1), dtype=torch.int16)


def test_a_single_map_is_the_loss_itself():
    (logits,), target = levels_of((6, 8)), target_of(6, 8)
    assert torch.equal(DeepSupervision(loss=LOSS, decay=0.5)([logits], target)["loss"], LOSS(logits, target)["loss"])


def test_levels_are_weighted_by_powers_of_the_decay_that_sum_to_one():
    levels, target = levels_of((6, 8), (6, 8), (6, 8)), target_of(6, 8)
    single = [F.cross_entropy(logits, target[:, 0].long()).item() for logits in levels]
    value = DeepSupervision(loss=LOSS, decay=0.5)(levels, target)["loss"]
    assert value.item() == pytest.approx((4 * single[0] + 2 * single[1] + single[2]) / 7)
    even = DeepSupervision(loss=LOSS, decay=1.0)(levels, target)["loss"]
    assert even.item() == pytest.approx(sum(single) / 3)


def test_targets_are_brought_to_a_coarser_map_by_the_nearest_voxel():
    levels, target = levels_of((6, 8, 4), (3, 4, 2), (2, 2, 2)), target_of(6, 8, 4)
    expected = []
    for logits in levels:
        factors = [have / want for have, want in zip(logits.shape[2:], target.shape[2:], strict=True)]
        labels = [
            ndimage.zoom(sample[0].numpy(), factors, order=0, mode="nearest", grid_mode=True) for sample in target
        ]
        expected.append(
            F.cross_entropy(logits, torch.stack([torch.from_numpy(label).long() for label in labels])).item()
        )
    value = DeepSupervision(loss=LOSS, decay=0.5)(levels, target)["loss"]
    assert value.item() == pytest.approx((4 * expected[0] + 2 * expected[1] + expected[2]) / 7)


def test_every_level_gets_a_gradient():
    levels = [logits.requires_grad_() for logits in levels_of((8, 8), (4, 4), (2, 2))]
    DeepSupervision(loss=LOSS, decay=0.5)(levels, target_of(8, 8))["loss"].backward()
    norms = [logits.grad.abs().sum().item() for logits in levels]
    assert norms[0] > norms[1] > norms[2] > 0


def test_a_level_without_annotated_voxels_does_not_count():
    levels, target = levels_of((4, 4), (1, 1)), target_of(4, 4)
    target[:, :, 2, 2] = -1
    loss = DeepSupervision(loss=IgnoreIndex(loss=CrossEntropy(sigmoid=False), ignore_index=9), decay=0.5)
    value = sum(loss(levels, target).values())
    finest = F.cross_entropy(levels[0], target[:, 0].long(), ignore_index=-1)
    assert value.item() == pytest.approx(2 / 3 * finest.item())


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(UsageError, match=rf"deep supervision needs 0 < decay <= 1, got {decay}"):
        DeepSupervision(loss=LOSS, decay=decay)
