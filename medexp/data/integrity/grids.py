"""Checks of the grid of one case: axes, spacing, and how the patch lies on it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from medexp.core.faults import Fault, Severity
from medexp.core.geometry import orient_to_world, resized_shape
from medexp.core.types import Case
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import Demands
from medexp.data.integrity.files import image_file, reference_file
from medexp.data.integrity.measurement import Measurement
from medexp.data.integrity.pixels import is_ct

_RADIOLOGY = re.compile(
    r"(?<![a-z0-9])(mri?|mr-?t|t1\w*|t2\w*|flair|pd|dwi|adc|swi|dce|bold|pet|spect|us|ultrasound|x-?ray|xr|cr|dx|mg)(?![a-z])",
    re.IGNORECASE,
)
# What scanners take of a human: from a joint of a finger to a whole body.
_SMALLEST_VIEW_MM, _LARGEST_VIEW_MM = 2.0, 3000.0
_LARGEST_SPACING_MM = 100.0
# A CT has 512 x 512 voxels or more in a slice, and hardly ever of exactly 1 mm.
_CT_MATRIX = 512
# nnU-Net calls voxels anisotropic from here on, and spares the longest axis when it pools.
_ANISOTROPIC = 3.0


def wrong_dimensions(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Axes or shapes that differ between image, grid, annotation and what the dataset declares."""
    if len(seen.shape) != demands.spatial_dims:
        yield fault(
            "wrong_dimensions",
            case=case,
            file=image_file(case),
            expected=f"{demands.spatial_dims} spatial axes",
            found=f"{len(seen.shape)} (shape {seen.shape})",
            remedy="split a series into its images, or choose a dataset of that many dimensions",
        )
    layers = {"mask": seen.mask, "instances": seen.instances}
    shapes = {"the grid": (seen.grid_shape, image_file(case))}
    shapes |= {name: (layer.shape, reference_file(case, name)) for name, layer in layers.items() if layer is not None}
    for name, (shape, file) in shapes.items():
        if shape != seen.shape:
            yield fault(
                "wrong_dimensions",
                case=case,
                file=file,
                expected=f"shape {seen.shape}, as the image has, in {name}",
                found=f"{shape}",
                remedy="resample it to the image's grid, or check that it belongs to this case",
            )


def implausible_spacing(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """A spacing in other units than millimetres, or one that a header lost."""
    if seen.unit != "mm":
        return
    spacing = seen.spacing_mm
    view = max(n * length for n, length in zip(seen.grid_shape, spacing, strict=True))
    wrong = _out_of_scale(view, max(spacing)) or _lost_spacing(seen.grid_shape, spacing)
    if wrong is None:
        return
    radiological = any(is_ct(name) or _RADIOLOGY.search(name) for name in demands.channels)
    found, remedy = wrong
    yield fault(
        "implausible_spacing",
        case=case,
        file=image_file(case),
        expected="the distance between voxels in millimetres",
        found=f"{_shown(spacing)} for {seen.grid_shape} voxels, {found}",
        remedy=remedy,
        severity=Severity.ERROR if radiological else Severity.WARNING,
    )


def _out_of_scale(view_mm: float, longest_mm: float) -> tuple[str, str] | None:
    if view_mm < _SMALLEST_VIEW_MM:
        return (
            f"a view of {view_mm:.3g} mm, as if it were in metres",
            "write the spacing in millimetres into the header",
        )
    if view_mm > _LARGEST_VIEW_MM or longest_mm > _LARGEST_SPACING_MM:
        return (
            f"a view of {view_mm:.3g} mm, as if it were in micrometres",
            "write the spacing in millimetres into the header",
        )
    return None


def _lost_spacing(shape: Sequence[int], spacing: Sequence[float]) -> tuple[str, str] | None:
    large = sorted(shape)[-2:]
    if all(length == 1.0 for length in spacing) and len(shape) == 3 and large[0] == large[1] >= _CT_MATRIX:
        return "as if the header had lost it", "take the spacing from the original images"
    return None


def smaller_than_patch(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """An image that has to be padded."""
    patch, grid = demands.training.patch_size, _network_grid(seen, demands)
    if patch is None or grid is None or len(patch) != len(grid[0]):
        return
    shape = grid[0]
    if any(n < wanted for n, wanted in zip(shape, patch, strict=True)):
        yield fault(
            "smaller_than_patch",
            case=case,
            file=image_file(case),
            expected=f"{tuple(patch)} voxels for a patch",
            found=f"{shape}",
            remedy="none is needed, it is padded with zeros; a smaller dataset.patch_size saves time",
        )


def extreme_anisotropy(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Voxels so long along one axis that patch or strides mix very different lengths."""
    patch, strides = demands.training.patch_size, demands.training.strides
    grid = _network_grid(seen, demands)
    if grid is None or max(grid[1]) <= _ANISOTROPIC * min(grid[1]):
        return
    shape, spacing = grid
    told = []
    if patch is not None and len(patch) == len(spacing):
        view = [min(n, whole) * length for n, whole, length in zip(patch, shape, spacing, strict=True)]
        if max(view) > _ANISOTROPIC * min(view):
            told.append(f"a patch of {tuple(patch)} that covers {_shown(view)}")
    if strides is not None and len(strides) == len(spacing):
        coarsest = [length * stride for length, stride in zip(spacing, strides, strict=True)]
        if max(coarsest) > _ANISOTROPIC * min(coarsest):
            told.append(f"strides of {tuple(strides)} that end at voxels of {_shown(coarsest)}")
    if told:
        yield fault(
            "extreme_anisotropy",
            case=case,
            file=image_file(case),
            expected=f"lengths within a factor of {_ANISOTROPIC:g}",
            found=f"voxels of {_shown(spacing)}, {' and '.join(told)}",
            remedy="take fewer voxels and fewer strides along the long axis, or set dataset.preprocessing.spacing_mm",
        )


def patch_not_divisible(demands: Demands) -> Iterator[Fault]:
    """A patch that the strides of the network do not divide, with the nearest that they do."""
    patch, strides = demands.training.patch_size, demands.training.strides
    if patch is None or strides is None or len(patch) != len(strides):
        return
    nearest = [max(stride, stride * int(n / stride + 0.5)) for n, stride in zip(patch, strides, strict=True)]
    if any(n % stride for n, stride in zip(patch, strides, strict=True)):
        yield fault(
            "patch_not_divisible",
            expected=f"a patch that the strides {tuple(strides)} of the network divide",
            found=f"{tuple(patch)}",
            remedy=f"the nearest is dataset.patch_size=[{','.join(map(str, nearest))}]",
        )


def _network_grid(seen: Measurement, demands: Demands) -> tuple[tuple[int, ...], tuple[float, ...]] | None:
    """Shape and spacing of the image on the network's grid; None where the wanted spacing has other axes."""
    shape, own, wanted = seen.grid_shape, seen.spacing_mm, demands.training.spacing_mm
    if demands.training.orient:
        axes = orient_to_world(seen.geometry)[0]
        shape, own = tuple(shape[axis] for axis in axes), tuple(own[axis] for axis in axes)
    if wanted is None:
        return shape, own
    return (resized_shape(shape, own, wanted), wanted) if len(wanted) == len(own) else None


def _shown(lengths: Sequence[float]) -> str:
    return f"({', '.join(f'{length:.3g}' for length in lengths)}) mm"
