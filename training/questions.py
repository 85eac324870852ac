"""Makes questions about a stretch of a world, with true answers: balanced, and with hard negatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from training.world import COLOURS, HEIGHTS, NEEDLE_FRAMES, ROOMS, SHAPES, STILL, Thing, World

NOTHING = "nothing"
Picked = TypeVar("Picked")


@dataclass(frozen=True)
class Question:
    """A question of one kind, its answer, and the whole seconds that show it; none if no second shows more."""

    kind: str
    text: str
    answer: str
    seconds: tuple[int, ...]


@dataclass(frozen=True)
class Stretch:
    """The subject of a question: the things of a world between two whole seconds."""

    world: World
    start_s: int
    end_s: int

    @property
    def things(self) -> list[Thing]:
        """The things that are visible at any time in the stretch."""
        return self.world.during(self.start_s, self.end_s)

    def seconds(self, *things: Thing) -> list[int]:
        """The seconds in which any of the things is visible."""
        return sorted({second for thing in things for second in thing.seconds(self.start_s, self.end_s)})


Rng = np.random.Generator
PHRASES = {
    "exists": ("is there a {0} ?", "can you see a {0} ?", "does a {0} appear in the video ?", "was there a {0} ?"),
    "colour": ("what colour is the {0} ?", "which colour has the {0} ?"),
    "shape": ("what shape is the {0} thing ?", "which shape has the {0} thing ?"),
    "room": ("which room is this ?", "where was the video taken ?", "what place is this ?"),
    "left-right": ("is the {0} left or right ?", "is the {0} on the left or right ?", "on which side is the {0} ?"),
    "height": ("how high is the {0} ?", "is the {0} top , middle or bottom ?"),
    "now": ("what is there now ?", "what can you see at the end ?"),
    "where": ("what is at the {0} {1} ?", "which thing is at the {0} {1} ?"),
    "order": ("did the {0} come before the {1} ?", "was the {0} there before the {1} ?"),
    "direction": ("does the {0} move left or right ?", "which way does the {0} move ?"),
    "count": ("how many things are there ?", "how many things can you see ?"),
    "times": ("how many times does the {0} appear ?",),
    "caption": ("describe the video .",),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def ask(stretch: Stretch, rng: Rng, kind: str) -> Question | None:
    """Makes a question of the kind; None if the stretch allows none."""
    found = _MAKERS[kind](stretch, rng)
    if found is None:
        return None
    words, answer, seconds = found
    phrases = PHRASES["exists" if kind == "needle" else kind]
    return Question(kind, str(rng.choice(phrases)).format(*words), answer, tuple(seconds))


def words() -> list[str]:
    """Every word that a question or an answer can contain, sorted."""
    texts = [phrase for phrases in PHRASES.values() for phrase in phrases]
    names = [*COLOURS, *SHAPES, *ROOMS, *HEIGHTS, *NUMBERS, "left", "right", "yes", "then", "a", NOTHING]
    return sorted({word for text in texts for word in text.split() if "{" not in word} | set(names))


Found = tuple[Sequence[str], str, Sequence[int]] | None  # words for the phrase, answer, seconds that show it


def _exists(stretch: Stretch, rng: Rng) -> Found:
    if stretch.things and rng.random() < 0.5:
        return _present(stretch, _pick(rng, stretch.things))
    return _absent(stretch, rng)


def _needle(stretch: Stretch, rng: Rng) -> Found:
    brief = [thing for thing in stretch.things if len(stretch.seconds(thing)) <= NEEDLE_FRAMES]
    if not brief or stretch.end_s - stretch.start_s < 2 * NEEDLE_FRAMES:
        return None
    return _present(stretch, _pick(rng, brief)) if rng.random() < 0.6 else _absent(stretch, rng)


def _present(stretch: Stretch, thing: Thing) -> Found:
    return (thing.name,), "yes", stretch.seconds(thing)


def _absent(stretch: Stretch, rng: Rng) -> Found:
    """A thing that is absent; mostly one whose colour and shape both appear, but on different things."""
    there = {thing.name for thing in stretch.things}
    colours = sorted({thing.colour for thing in stretch.things})
    shapes = sorted({thing.shape for thing in stretch.things})
    hard = [name for c in colours for s in shapes if (name := f"{c} {s}") not in there]
    easy = [name for c in COLOURS for s in SHAPES if (name := f"{c} {s}") not in there]
    names = hard if hard and rng.random() < 0.6 else easy
    if not names:
        return None
    name = _pick(rng, names)
    alike = [thing for thing in stretch.things if thing.colour in name or thing.shape in name]
    return (name,), "no", stretch.seconds(*alike)


def _colour(stretch: Stretch, rng: Rng) -> Found:
    thing = _pick_unique(stretch.things, rng, lambda thing: thing.shape)
    return ((thing.shape,), thing.colour, stretch.seconds(thing)) if thing else None


def _shape(stretch: Stretch, rng: Rng) -> Found:
    thing = _pick_unique(stretch.things, rng, lambda thing: thing.colour)
    return ((thing.colour,), thing.shape, stretch.seconds(thing)) if thing else None


def _room(stretch: Stretch, _: Rng) -> Found:
    return (), stretch.world.room, ()


def _left_right(stretch: Stretch, rng: Rng) -> Found:
    still = [thing for thing in stretch.things if thing.path in STILL]
    if not still:
        return None
    thing = _pick(rng, still)
    return (thing.name,), thing.path, stretch.seconds(thing)


def _height(stretch: Stretch, rng: Rng) -> Found:
    if not stretch.things:
        return None
    thing = _pick(rng, stretch.things)
    return (thing.name,), HEIGHTS[thing.height], stretch.seconds(thing)


def _now(stretch: Stretch, rng: Rng) -> Found:
    there = [thing for thing in stretch.things if thing.seconds(stretch.end_s - 1, stretch.end_s)]
    if len(there) > 1 or (not there and rng.random() < 0.5):
        return None
    return (), f"a {there[0].name}" if there else NOTHING, (stretch.end_s - 1,)


def _where(stretch: Stretch, rng: Rng) -> Found:
    if any(thing.path not in STILL for thing in stretch.things):
        return None
    thing = _pick_unique(stretch.things, rng, lambda thing: f"{thing.height} {thing.path}")
    return ((HEIGHTS[thing.height], thing.path), f"a {thing.name}", stretch.seconds(thing)) if thing else None


def _order(stretch: Stretch, rng: Rng) -> Found:
    things = stretch.things
    pairs = [(a, b) for a in things for b in things if stretch.seconds(a)[0] != stretch.seconds(b)[0]]
    if not pairs:
        return None
    one, other = pairs[int(rng.integers(len(pairs)))]
    first = stretch.seconds(one)[0] < stretch.seconds(other)[0]
    return (one.name, other.name), "yes" if first else "no", stretch.seconds(one, other)


def _direction(stretch: Stretch, rng: Rng) -> Found:
    moving = [thing for thing in stretch.things if thing.path not in STILL and len(stretch.seconds(thing)) > 1]
    if not moving:
        return None
    thing = _pick(rng, moving)
    return (thing.name,), thing.path.removeprefix("moves "), stretch.seconds(thing)


def _count(stretch: Stretch, _: Rng) -> Found:
    things = stretch.things
    return ((), NUMBERS[len(things)], stretch.seconds(*things)) if len(things) < len(NUMBERS) else None


def _times(stretch: Stretch, rng: Rng) -> Found:
    if not stretch.things:
        return None
    thing = _pick(rng, stretch.things)
    times = sum(1 for begin, end in thing.spans if begin < stretch.end_s and end > stretch.start_s)
    return (thing.name,), NUMBERS[times], stretch.seconds(thing)


def _caption(stretch: Stretch, _: Rng) -> Found:
    first = sorted(stretch.things, key=lambda thing: (stretch.seconds(thing)[0], thing.name))[:2]
    if len({stretch.seconds(thing)[0] for thing in first}) != len(first):
        return None  # the model could only guess which came first
    return (), " then ".join(f"a {thing.name}" for thing in first) or NOTHING, stretch.seconds(*first)


_MAKERS: dict[str, Callable[[Stretch, Rng], Found]] = {
    "exists": _exists,
    "needle": _needle,
    "colour": _colour,
    "shape": _shape,
    "room": _room,
    "left-right": _left_right,
    "height": _height,
    "now": _now,
    "where": _where,
    "order": _order,
    "direction": _direction,
    "count": _count,
    "times": _times,
    "caption": _caption,
}
KINDS = tuple(_MAKERS)


def _pick(rng: Rng, items: Sequence[Picked]) -> Picked:
    return items[int(rng.integers(len(items)))]


def _pick_unique(things: Sequence[Thing], rng: Rng, trait: Callable[[Thing], str]) -> Thing | None:
    """A thing whose trait no other thing has."""
    traits = [trait(thing) for thing in things]
    alone = [thing for thing in things if traits.count(trait(thing)) == 1]
    return _pick(rng, alone) if alone else None
