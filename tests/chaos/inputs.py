"""The users' videos and questions: generated worlds, and copies that differ in bytes but not in pictures."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from training.files import write_video
from training.questions import KINDS, Stretch, ask
from training.render import render
from training.world import World, generate

FPS = 4
SIDE_PX = 336
LENGTHS_S = {"short": 60, "middle": 95, "long": 150}
LONGEST_S = 400
QUESTIONS = 4  # different texts for each medium


@dataclass(frozen=True)
class Asked:
    """A question about a medium; `follows` is the number of the previous question in its conversation."""

    text: str
    start: float = 0.0
    end: float | None = None
    fusion: str = "focused"
    follows: int | None = None


@dataclass(frozen=True)
class Medium:
    """A file, and the questions about it."""

    name: str
    content: bytes
    suffix: str
    questions: tuple[Asked, ...]

    def vary(self) -> bytes:
        """The same pictures in other bytes: adds a box or a segment that every reader skips."""
        junk = secrets.token_bytes(16)
        if self.suffix == ".mp4":
            return self.content + (8 + len(junk)).to_bytes(4, "big") + b"free" + junk
        return self.content[:2] + b"\xff\xfe" + (2 + len(junk)).to_bytes(2, "big") + junk + self.content[2:]


def make_media(folder: Path, seed: int, *, with_long: bool) -> list[Medium]:
    """Makes the media of a run."""
    lengths = LENGTHS_S | ({"longest": LONGEST_S} if with_long else {})
    media = []
    for number, (name, seconds) in enumerate(lengths.items()):
        world = generate(2 * (seed * 10 + number) + 1, seconds)
        path = write_video(world, folder / f"{name}.mp4", fps=FPS, side_px=SIDE_PX)
        media.append(Medium(name, path.read_bytes(), ".mp4", _make_questions(world, seed)))
    world = generate(2 * seed + 1001, 1)
    media.append(Medium("picture", _make_jpeg(world), ".jpg", _make_questions(world, seed)))
    return media


def _make_questions(world: World, seed: int) -> tuple[Asked, ...]:
    texts = _make_texts(world, seed)
    middle = world.seconds / 2
    return (
        Asked(texts[0]),
        Asked(texts[1], fusion="sampled"),
        Asked(texts[2], fusion="exact"),
        Asked(texts[3], follows=0),
        *((Asked(texts[0], 0.0, middle), Asked(texts[1], middle / 2, middle * 1.5)) if world.seconds > 1 else ()),
    )


def _make_texts(world: World, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    found = [question.text for kind in KINDS if (question := ask(Stretch(world, 0, world.seconds), rng, kind))]
    return (found * QUESTIONS)[:QUESTIONS]


def _make_jpeg(world: World) -> bytes:
    return bytes(cv2.imencode(".jpg", render(world, 0.5, SIDE_PX)[..., ::-1])[1])
