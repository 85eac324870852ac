"""The demo's two videos, served over local http: ten minutes of the generated world, and a real clip."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copyfile

import numpy as np

from training.files import write_video
from training.questions import Question, Stretch, ask
from training.world import World, generate

SECONDS, CHAPTER_S = 600, 60
SEED = 20261  # odd seeds are never trained on
WORLD_FILE, REAL_FILE = "world.mp4", "safari.mp4"

# Kinds of questions that the small model answers well (checkpoints/tiny/README.md): about a chapter, about all of it.
KINDS = ("exists", "colour", "shape", "left-right", "where", "room")
WHOLE_KINDS = ("room", "left-right")


def prepare(folder: Path) -> World:
    """Writes both files into `folder`, the long one only if it is missing. Returns the world with the true answers."""
    world = generate(SEED, SECONDS, CHAPTER_S)
    folder.mkdir(parents=True, exist_ok=True)
    copyfile(Path(__file__).with_name(REAL_FILE), folder / REAL_FILE)
    if not (folder / WORLD_FILE).exists():
        partial_file = folder / f"new-{WORLD_FILE}"
        write_video(world, partial_file).rename(folder / WORLD_FILE)
    return world


def dozen(world: World) -> list[tuple[int, int, Question]]:
    """Returns twelve questions as (start, end, question): two about the whole video, ten about a chapter each."""
    rng = np.random.default_rng(world.seed)
    whole = [(0, world.seconds, ask(Stretch(world, 0, world.seconds), rng, kind)) for kind in WHOLE_KINDS]
    parts = []
    for number in range(world.seconds // CHAPTER_S):
        start, end = number * CHAPTER_S, (number + 1) * CHAPTER_S
        offered = (ask(Stretch(world, start, end), rng, KINDS[(number + k) % len(KINDS)]) for k in range(len(KINDS)))
        parts.append((start, end, next(question for question in offered if question is not None)))
    return [(start, end, question) for start, end, question in [*whole, *parts] if question is not None]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serves the folder's files over HTTP; yields the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Logs nothing: the demo prints enough."""
