from __future__ import annotations

import pytest
import torch
from monai.inferers import sliding_window_inference

from medexp.core.errors import UsageError
from medexp.inferers.sliding_window import SlidingWindow

torch.set_num_threads(1)
KNOBS = {"window": (8, 8), "overlap": 0.5, "batch_size": 3, "blending": "gaussian", "low_memory": False}


def inferer(**knobs) -> SlidingWindow:
    return SlidingWindow(**(KNOBS | knobs))


def images(*shape: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 2, *shape, generator=torch.Generator().manual_seed(seed))


def identity(windows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"semantic": windows}


def two_heads(windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Maps that depend on where a voxel lies in its window, as those of a network do."""
    ramp = torch.linspace(0, 1, windows.shape[-1])
    return {"semantic": windows * ramp, "distance": windows[:, :1] - ramp}


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((8, 8), (8, 8)),
        ((20, 13), (8, 8)),
        ((5, 17), (8, 8)),
        ((3, 4), (8, 8)),
        ((9, 7, 12), (4, 5, 6)),
        ((9, 3, 12), (4, 5, 6)),
    ],
)
def test_windows_that_show_the_image_give_the_image(shape, window, blending, low_memory):
    whole = images(*shape)
    found = inferer(window=window, blending=blending, low_memory=low_memory)(whole, identity)
    assert list(found) == ["semantic"]
    torch.testing.assert_close(found["semantic"], whole, rtol=1e-5, atol=1e-5)


def test_every_image_of_a_batch_keeps_its_place():
    whole = images(10, 12, batch=3)
    for low_memory in (False, True):
        torch.testing.assert_close(inferer(low_memory=low_memory)(whole, identity)["semantic"], whole)


@pytest.mark.parametrize("blending", ["gaussian", "constant"])
@pytest.mark.parametrize("shape", [(20, 13), (5, 17), (16, 16)])
def test_all_heads_are_kept_and_low_memory_gives_the_same(shape, blending):
    whole = images(*shape)
    found = inferer(blending=blending)(whole, two_heads)
    assert {head: maps.shape for head, maps in found.items()} == {
        "semantic": (1, 2, *shape),
        "distance": (1, 1, *shape),
    }
    by_slabs = inferer(blending=blending, low_memory=True)(whole, two_heads)
    assert list(by_slabs) == list(found)
    for head, maps in found.items():
        torch.testing.assert_close(by_slabs[head], maps, rtol=0, atol=1e-6)
        alone = sliding_window_inference(
            whole, (8, 8), 3, lambda windows, head=head: two_heads(windows)[head], overlap=0.5, mode=blending
        )
        torch.testing.assert_close(maps, alone, rtol=0, atol=1e-6)


def halves(windows: torch.Tensor) -> dict[str, torch.Tensor]:
    """One in the left half of a window, zero in the right."""
    maps = torch.zeros(windows.shape[0], 1, *windows.shape[2:])
    maps[..., : windows.shape[-1] // 2] = 1
    return {"semantic": maps}


def test_constant_blending_is_the_mean_over_the_windows():
    row = inferer(blending="constant")(images(8, 12), halves)["semantic"][0, 0, 0]
    # Windows start at 0 and 4: voxels 4 to 7 lie in the right half of one and in the left half of the other.
    assert row.tolist() == pytest.approx([1.0] * 4 + [0.5] * 4 + [0.0] * 4)


def test_gaussian_blending_trusts_the_middle_of_a_window():
    row = inferer(blending="gaussian")(images(8, 12), halves)["semantic"][0, 0, 3]
    # Windows start at 0 and 4, and the bell's deviation is an eighth of a window. Only the second says one in between.
    bell = torch.exp(-((torch.arange(8) - 3.5) ** 2) / 2)
    torch.testing.assert_close(row[4:8], bell[:4] / (bell[:4] + bell[4:]))
    assert row[4] < 0.01
    assert row[7] > 0.99


def test_overlap_sets_the_number_of_windows():
    def windows(**knobs) -> int:
        seen = []
        inferer(**knobs)(images(8, 64), lambda batch: seen.append(len(batch)) or identity(batch))
        return sum(seen)

    assert windows(overlap=0.0) == 8
    assert windows(overlap=0.5) == 15
    assert windows(overlap=0.75) == 29


def test_no_more_windows_pass_the_network_than_the_batch_size():
    sizes = []
    inferer(batch_size=4)(images(20, 20), lambda batch: sizes.append(len(batch)) or identity(batch))
    assert max(sizes) == 4
    assert set(sizes[:-1]) == {4}


@pytest.mark.parametrize("low_memory", [False, True])
def test_half_precision_is_accumulated_in_full(low_memory):
    # All windows show a voxel alike, so that blending them must give what one window says.
    whole = (100 * images(40, 40)).bfloat16()
    found = inferer(overlap=0.75, low_memory=low_memory)(whole, lambda windows: {"semantic": windows.bfloat16()})
    error = (found["semantic"] - whole.float()).abs().max()
    in_half = sliding_window_inference(whole, (8, 8), 3, lambda windows: windows, overlap=0.75, mode="gaussian")
    assert found["semantic"].dtype == torch.float32
    assert error < 1e-3
    assert (in_half.float() - whole.float()).abs().max() > 1000 * error


def test_images_smaller_than_the_window_are_padded_with_zeros_on_both_sides():
    seen = []
    inferer()(torch.ones(1, 2, 3, 5), lambda batch: seen.append(batch) or identity(batch))
    (window,) = seen
    expected = torch.zeros(8, 8)
    expected[2:5, 1:6] = 1
    assert torch.equal(window[0, 0], expected)


def test_the_image_is_left_as_it_was():
    whole = images(12, 12)
    before = whole.clone()
    inferer()(whole, lambda windows: {"semantic": windows.mul_(2)})
    assert torch.equal(whole, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_low_memory_stitches_in_main_memory_what_a_gpu_computes():
    whole = images(20, 13).cuda()
    devices = set()

    def watched(windows: torch.Tensor) -> dict[str, torch.Tensor]:
        devices.add(windows.device.type)
        return {head: maps.cuda() for head, maps in two_heads(windows.cpu()).items()}

    expected = inferer()(whole, watched)
    found = inferer(low_memory=True)(whole, watched)
    assert devices == {"cuda"}
    for head, maps in found.items():
        assert maps.device.type == "cpu"
        torch.testing.assert_close(maps, expected[head].cpu(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"overlap": 1.0}, r"inferer\.overlap needs a value in \[0, 1\), got 1\.0"),
        ({"overlap": -0.1}, r"inferer\.overlap needs a value in \[0, 1\)"),
        ({"blending": "gauss"}, r"inferer\.blending is gaussian or constant, got gauss"),
        ({"window": (8, 0)}, r"inferer\.window and inferer\.batch_size need values >= 1, got \[8, 0\] and 3"),
        ({"window": ()}, r"inferer\.window and inferer\.batch_size need values >= 1"),
        ({"batch_size": 0}, r"inferer\.window and inferer\.batch_size need values >= 1, got \[8, 8\] and 0"),
    ],
)
def test_values_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        inferer(**knobs)
