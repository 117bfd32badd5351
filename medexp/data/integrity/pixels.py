"""Checks of the intensities of one case."""

from __future__ import annotations

import re
from collections.abc import Iterator

from medexp.core.faults import Fault, Severity
from medexp.core.types import Case
from medexp.data.integrity.checks import fault
from medexp.data.integrity.demands import Demands
from medexp.data.integrity.files import image_file
from medexp.data.integrity.measurement import ChannelValues, Measurement

_CT = re.compile(r"(?<![a-z0-9])(ct|ldct|cbct|hounsfield|hu)(?![a-z])", re.IGNORECASE)
# Scanners fill what lies outside the field of view with values down to -8192; metal reaches the end of 16 bits.
_HOUNSFIELD = (-8192.0, 32767.0)
# Air, which is -1000, is in nearly every CT; without it the values of dense tissue tell raw numbers from a window.
_RAW_FROM = 1500.0
_NARROWEST_CT = 200.0


def is_ct(channel: str) -> bool:
    """Whether the name of a channel says that it is a CT."""
    return _CT.search(channel) is not None


def wrong_channels(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Another number of channels than the dataset declares."""
    found, declared = len(seen.channels), len(demands.channels)
    if found == declared:
        return
    colour = found in (3, 4) and declared == 1
    yield fault(
        "wrong_channels",
        case=case,
        file=image_file(case),
        expected=f"{declared} channel{'s' if declared > 1 else ''} ({', '.join(demands.channels)})",
        found=f"{found}{', as a picture in colour has' if colour else ''}",
        remedy="convert it to grey" if colour else "correct the file, or declare the channels that it has",
    )


def not_finite(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Voxels that are NaN or infinite."""
    for number, channel in enumerate(seen.channels):
        if channel.not_finite:
            name = _name(demands, number)
            yield fault(
                "not_finite",
                case=case,
                file=image_file(case, number),
                expected=f"finite values{name}",
                found=f"{channel.not_finite} voxels that are NaN or infinite, the first at {channel.first_not_finite}",
                remedy="replace them in the file",
            )


def constant(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """An image, or one of several channels, that has one value everywhere."""
    flat = [number for number, channel in enumerate(seen.channels) if channel.low == channel.high]
    if flat and len(flat) == len(seen.channels):
        values = ", ".join(f"{channel.low:g}" for channel in seen.channels)
        yield fault(
            "constant_image",
            case=case,
            file=image_file(case),
            expected="an image whose voxels differ",
            found=f"{values} in every voxel",
            remedy="export it again, or remove the case",
        )
        return
    for number in flat:
        yield fault(
            "constant_channel",
            case=case,
            file=image_file(case, number),
            expected=f"values that differ{_name(demands, number)}",
            found=f"{seen.channels[number].low:g} in every voxel",
            remedy="export the channel again, or do not declare it",
        )


def wrapped(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """Unsigned 16-bit values that were stored as signed ones."""
    for number, channel in enumerate(seen.channels):
        if channel.wrapped:
            yield fault(
                "wrapped_intensities",
                case=case,
                file=image_file(case, number),
                expected=f"grey values as they were acquired{_name(demands, number)}",
                found=f"{channel.low:g} to {channel.high:g}, and a smoother image with 65,536 added to negative values",
                remedy="store it as unsigned 16-bit, 32-bit or floating point numbers",
            )


def hounsfield(case: Case, seen: Measurement, demands: Demands) -> Iterator[Fault]:
    """A CT whose values are no Hounsfield units."""
    for number, (name, channel) in enumerate(zip(demands.channels, seen.channels, strict=False)):
        wrong = _no_hounsfield(channel) if is_ct(name) and channel.low < channel.high else None
        if wrong is not None:
            found, remedy, severity = wrong
            yield fault(
                "hounsfield_range",
                case=case,
                file=image_file(case, number),
                expected="Hounsfield units in a CT, air near -1000",
                found=f"{channel.low:g} to {channel.high:g}, {found}",
                remedy=remedy,
                severity=severity,
            )


def _no_hounsfield(channel: ChannelValues) -> tuple[str, str, Severity] | None:
    """What the values of a CT look like instead, the remedy, and how grave it is."""
    low, high = channel.low, channel.high
    if low < _HOUNSFIELD[0] or high > _HOUNSFIELD[1]:
        return (
            f"beyond {_HOUNSFIELD[0]:g} to {_HOUNSFIELD[1]:g}",
            "correct slope and intercept, or what fills the rest of the field of view",
            Severity.ERROR,
        )
    if low >= 0 and high >= _RAW_FROM:
        return (
            "none of them negative, so that slope and intercept (often -1024) seem not to be applied",
            "apply the rescale slope and intercept of the DICOM header",
            Severity.ERROR,
        )
    if low >= 0 or high - low < _NARROWEST_CT:
        return (
            "which looks like a windowed or normalised picture",
            "export the CT itself, or name the channel otherwise",
            Severity.WARNING,
        )
    return None


def _name(demands: Demands, number: int) -> str:
    """The channel where there are several, as the end of a clause."""
    several = len(demands.channels) > 1 and number < len(demands.channels)
    return f" in channel {demands.channels[number]}" if several else ""
