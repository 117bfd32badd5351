"""Another scheme for each channel, by its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from medexp.data.normalisation.base import Foreground, Normalisation, Scheme


class ByChannel:
    """For each channel the scheme that its name asks for.

    Args:
        of_channel: Scheme by name of the channel, in either case of letters.
        otherwise: Scheme of all other channels.
    """

    def __init__(self, *, of_channel: Mapping[str, Normalisation | Scheme], otherwise: Normalisation | Scheme) -> None:
        self.of_channel = {channel.casefold(): scheme for channel, scheme in of_channel.items()}
        self.otherwise = otherwise

    def fit(self, *, channels: tuple[str, ...], foreground: Foreground) -> Normalisation:
        """The normalisation of each channel.

        Args:
            channels: Names of the channels.
            foreground: Intensities of the training cases; called where a scheme needs them.

        Returns:
            The normalisation of images of these channels.
        """
        fitted: list[Normalisation] = []
        for number, channel in enumerate(channels):
            scheme = self.of_channel.get(channel.casefold(), self.otherwise)
            if isinstance(scheme, Scheme):
                scheme = scheme.fit(channels=(channel,), foreground=partial(_of_channel, foreground, number))
            fitted.append(scheme)
        return PerChannel(fitted)


def _of_channel(foreground: Foreground, number: int) -> tuple[Float[np.ndarray, "_"], ...]:
    return (foreground()[number],)


class PerChannel:
    """A normalisation of its own for each channel.

    Args:
        normalisations: One a channel.
    """

    def __init__(self, normalisations: Sequence[Normalisation]) -> None:
        self.normalisations = tuple(normalisations)

    def __call__(self, pixels: Float[np.ndarray, "channels *spatial"]) -> Float[np.ndarray, "channels *spatial"]:
        """Return the image with each channel normalised."""
        own = zip(self.normalisations, pixels, strict=True)
        return np.concatenate([normalisation(channel[None]) for normalisation, channel in own])

    def knobs(self) -> dict[str, Any]:
        """The name and the knobs of each channel."""
        return {"name": "per_channel", "channels": [normalisation.knobs() for normalisation in self.normalisations]}
