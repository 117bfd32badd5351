"""The ways of tracks through the frames of a sequence, as lines of a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medexp.association.frames import centres_mm
from medexp.core.tracks import TrackedSequence
from medexp.engine._instance_colours import INSTANCE_COLOURS, Neighbours
from medexp.engine._track_scene import Scene

Point = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """The way of an object from a frame to the next in which it is seen.

    Attributes:
        track: Its track, at the end of the way.
        came_from: Its track at the start, another one where that was its parent.
        frame: The later frame.
        start: Column and row in the earlier frame, of a track's parent where it begins.
        end: Column and row in the later one.
    """

    track: int
    came_from: int
    frame: int
    start: Point
    end: Point


@dataclass(frozen=True)
class Trails:
    """All that the pictures of a sequence have in common.

    Attributes:
        colours: Colour of each track, as 0 to 255 of red, green and blue, by its id.
        places: Column and row of the centre of each track, by frame and id.
        steps: All steps, by their later frame.
    """

    colours: dict[int, tuple[int, int, int]]
    places: dict[int, dict[int, Point]]
    steps: tuple[Step, ...]

    def lately(self, frame: int, trail_frames: int) -> Iterator[tuple[Step, float]]:
        """The steps of the last frames, the oldest first, each with the share of its colour that has not faded yet.

        Args:
            frame: The frame that is shown.
            trail_frames: How many frames a step is seen for; 0 for none.

        Yields:
            Step, and share above 0 and up to 1.
        """
        for step in self.steps:
            age = frame - step.frame
            if 0 <= age < trail_frames:
                yield step, 1.0 - age / trail_frames


def trails_of(tracked: TrackedSequence, scene: Scene) -> Trails:
    """Follow the centres of tracks, across gaps and from parents to daughters.

    Args:
        tracked: The tracks.
        scene: The picture.

    Returns:
        The trails.
    """
    places: dict[int, dict[int, Point]] = {}
    neighbours = Neighbours()
    for frame, ids in tracked.sequence.frames.items():
        present = np.unique(ids[ids > 0]).tolist()
        columns_rows = scene.places(centres_mm(tracked.sequence, frame)).tolist()
        places[frame] = {identity: (x, y) for identity, (x, y) in zip(present, columns_rows, strict=True)}
        neighbours.know(present)
        neighbours.add(scene.foremost(ids))
    for track in tracked.tracks:
        if track.parent:
            neighbours.add_near(track.identity, track.parent)
    numbers = neighbours.colour_numbers()
    colours = {identity: _rgb(INSTANCE_COLOURS[number % len(INSTANCE_COLOURS)]) for identity, number in numbers.items()}
    return Trails(colours, places, tuple(sorted(_steps(tracked, places), key=lambda step: (step.frame, step.track))))


def _steps(tracked: TrackedSequence, places: dict[int, dict[int, Point]]) -> Iterator[Step]:
    seen: dict[int, list[tuple[int, Point]]] = {}
    for frame, found in places.items():
        for identity, place in found.items():
            seen.setdefault(identity, []).append((frame, place))
    parents = {track.identity: track.parent for track in tracked.tracks}
    for identity, along in seen.items():
        before = [one for one in seen.get(parents.get(identity, 0), []) if one[0] < along[0][0]]
        # What begins from nothing has stepped on the spot, so that it leaves a trace even where it is gone at once.
        way = [*(before[-1:] or along[:1]), *along]
        for number, ((_, start), (frame, end)) in enumerate(pairwise(way)):
            yield Step(identity, parents[identity] if before and number == 0 else identity, frame, start, end)


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
