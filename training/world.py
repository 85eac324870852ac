"""A generated world: coloured shapes that stand, move, appear and disappear in a room. Knows nothing of pixels."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")
SHAPES = ("circle", "square", "triangle", "star", "cross")
ROOMS = ("kitchen", "garden", "street", "office", "beach")
HEIGHTS = ("top", "middle", "bottom")
Path = Literal["left", "right", "moves left", "moves right"]
STILL: tuple[Path, ...] = ("left", "right")
MOVING: tuple[Path, ...] = ("moves left", "moves right")

NEEDLE_FRAMES = 3  # a needle is seen in one to three frames
SHORTEST_MOVE_S = 4


@dataclass(frozen=True)
class Thing:
    """One coloured shape. It has the same place or path every time it appears."""

    colour: str
    shape: str
    height: int  # index into HEIGHTS
    path: Path
    spans: tuple[tuple[int, int], ...]  # [from, to) in whole seconds, ascending
    jitter: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y (parts of the picture), size

    @property
    def name(self) -> str:
        """The name in questions, such as "red circle"."""
        return f"{self.colour} {self.shape}"

    def seconds(self, start_s: int, end_s: int) -> list[int]:
        """The whole seconds in [start_s, end_s) in which the thing is visible."""
        return [s for begin, end in self.spans for s in range(max(begin, start_s), min(end, end_s))]

    def at(self, t_s: float) -> tuple[float, float] | None:
        """Its centre (x and y as shares of the picture's side); None while it is not visible."""
        for begin, end in self.spans:
            if begin <= t_s < end:
                return self._x((t_s - begin) / (end - begin)) + self.jitter[0], self._y + self.jitter[1]
        return None

    def _x(self, part: float) -> float:
        if self.path in MOVING:
            across = 0.15 + 0.7 * part
            return across if self.path == "moves right" else 1 - across
        return 0.24 if self.path == "left" else 0.76

    @property
    def _y(self) -> float:
        return (0.2, 0.5, 0.8)[self.height]


@dataclass(frozen=True)
class World:
    """A room, how long it is filmed, and the things in it."""

    room: str
    seconds: int
    things: tuple[Thing, ...]
    light: float = 1.0
    seed: int = field(default=0, compare=False)

    def during(self, start_s: int, end_s: int) -> list[Thing]:
        """The things that are visible at any time in [start_s, end_s)."""
        return [thing for thing in self.things if thing.seconds(start_s, end_s)]


def generate(seed: int, seconds: int, chapter_s: int | None = None) -> World:
    """Generates the world of `seed`. With `chapter_s`, the cast changes that often, as in a long recording."""
    rng = np.random.default_rng([seed, seconds])
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    rng.shuffle(pairs)
    things: list[Thing] = []
    length = chapter_s or seconds
    for begin in range(0, seconds, length):
        end = min(begin + length, seconds)
        cast = int(rng.integers(2, 5 if end - begin < 8 else 6)) if end - begin > 1 else int(rng.integers(1, 5))
        for _ in range(min(cast, len(pairs))):
            colour, shape = pairs.pop()
            thing = _place(rng, str(colour), str(shape), begin, end, things)
            if thing is not None:
                things.append(thing)
    return World(str(rng.choice(ROOMS)), seconds, tuple(things), float(rng.uniform(0.8, 1.15)), seed)


def _place(
    rng: np.random.Generator, colour: str, shape: str, begin: int, end: int, others: Iterable[Thing]
) -> Thing | None:
    """Places a thing so that it never collides with another; None if no random try succeeds."""
    for _ in range(12):
        spans = _draw_spans(rng, begin, end)
        longest = max(to - since for since, to in spans)
        moves = longest >= SHORTEST_MOVE_S and min(to - since for since, to in spans) >= SHORTEST_MOVE_S
        path: Path = MOVING[rng.integers(2)] if moves and rng.random() < 0.3 else STILL[rng.integers(2)]
        jitter = (float(rng.uniform(-0.06, 0.06)), float(rng.uniform(-0.03, 0.03)), float(rng.uniform(-0.015, 0.015)))
        thing = Thing(colour, shape, int(rng.integers(3)), path, spans, jitter)
        if not any(_collide(thing, other) for other in others):
            return thing
    return None


def _draw_spans(rng: np.random.Generator, begin: int, end: int) -> tuple[tuple[int, int], ...]:
    length = end - begin
    if length == 1:
        return ((begin, end),)
    if rng.random() < 0.35:  # a needle
        frames = int(rng.integers(1, min(NEEDLE_FRAMES, length - 1) + 1))
        start = int(rng.integers(begin, end - frames + 1))
        return ((start, start + frames),)
    times = int(rng.choice([1, 1, 2, 3])) if length >= 12 else 1
    edges = np.sort(rng.choice(np.arange(begin, end + 1), size=2 * times, replace=False))
    spans = [(int(a), int(b)) for a, b in edges.reshape(times, 2)]
    merged = [spans[0]]
    for since, to in spans[1:]:
        if since - merged[-1][1] < 1:
            merged[-1] = (merged[-1][0], to)
        else:
            merged.append((since, to))
    return tuple(merged)


def _collide(one: Thing, other: Thing) -> bool:
    if one.height != other.height:
        return False
    if one.path in STILL and other.path in STILL and one.path != other.path:
        return False
    return any(a < d and c < b for a, b in one.spans for c, d in other.spans)
