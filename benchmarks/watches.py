"""How right standing questions are in the generated world, over windows of 10, 60 and 600 seconds.

Three ways: a watch as the service evaluates it (the question's mean over the window's intervals, the system prompt's
mean over the window's first segment), the last four frames alone (a strong baseline for streams, arXiv 2604.02317), and
the paper's mean over all frames of the window. The worlds have odd seeds, which are never trained on.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import write_json
from configs.loading import load_settings
from configs.settings import ReasonerSettings
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from llava_mini.text_table import table
from reasoner.engine import Engine, Limits, TokenSource
from reasoner.focus import Array, as_float
from storage.timeline import SEGMENT_SLOTS
from training.questions import Question, Stretch, ask
from training.render import render
from training.world import World, generate

WINDOWS_S = {10: 60, 60: 60, 600: 12}  # seconds -> how many videos
KINDS = ("exists", "needle", "colour", "shape", "room", "left-right", "height", "now", "where")
FIRST_SEED = 3_000_001
CHAPTER_S = 200  # the cast of a long window changes
INTERVAL_S = 10
LAST_FRAMES = 4
MAX_TOKENS = 12
WAYS = ("watch", "last four frames", "exact")


class Encoded(NamedTuple):
    """A video's frames, and texts fused with each of them."""

    tokens: NDArray[np.float16]  # (n,C,D)
    system: Array  # (n,L,D)
    questions: list[Array]  # (n,L_i,D) the rows after the system prompt


def main() -> None:
    """Measures, prints and writes results/watches.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", type=float, default=1.0, help="of the videos")
    part = parser.parse_args().part
    examinee = Examinee()
    tally: dict[tuple[int, str, str], list[bool]] = defaultdict(list)
    for window_s, videos in WINDOWS_S.items():
        for number in range(max(round(videos * part), 1)):
            world = generate(FIRST_SEED + 2 * number, window_s, min(CHAPTER_S, window_s))
            for question, answers in examinee.answer_all(world):
                for way, answer in answers.items():
                    tally[window_s, way, question.kind].append(answer.strip() == question.answer)
    names = [f"{window_s} s {way}" for window_s in WINDOWS_S for way in WAYS]
    rows = [[kind, *(_share(tally[window_s, way, kind]) for window_s in WINDOWS_S for way in WAYS)] for kind in KINDS]
    rows.append(["all", *(_share(_all(tally, window_s, way)) for window_s in WINDOWS_S for way in WAYS)])
    print(table(["kind", *names], rows))
    right = {
        f"{window_s}/{way}/{kind}": [sum(found), len(found)] for (window_s, way, kind), found in sorted(tally.items())
    }
    write_json("watches", {"interval_s": INTERVAL_S, "right_of": right})


class Examinee:
    """Both halves of the bundled model."""

    def __init__(self) -> None:
        chosen, reasoner = load_settings("tiny").model, ReasonerSettings()
        self._model = LlavaMini.from_pretrained(chosen.checkpoint)
        self._prompts = PromptBuilder.from_pretrained(
            self._model.folder, system=chosen.system_prompt, generation_prompt=chosen.generation_prompt
        )
        limits = Limits(reasoner.sample_frames, reasoner.focus_frames, reasoner.focus_baseline, MAX_TOKENS, 2**28)
        self._engine = Engine(self._model, self._prompts, limits)

    def answer_all(self, world: World) -> Iterator[tuple[Question, dict[str, str]]]:
        """Each question about the world, with its answer in each way."""
        rng = np.random.default_rng(world.seed)
        found = (ask(Stretch(world, 0, world.seconds), rng, kind) for kind in KINDS)
        questions = [question for question in found if question is not None]
        encoded = self._encode(world, [question.text for question in questions])
        answers = {way: self._answer(world, encoded, questions, way) for way in WAYS}
        for number, question in enumerate(questions):
            yield question, {way: replies[number] for way, replies in answers.items()}

    def _encode(self, world: World, questions: list[str]) -> Encoded:
        frames = np.stack([render(world, second + 0.5, 336) for second in range(world.seconds)])
        prompts = [self._prompts.build([(question, None)]) for question in questions]
        before = len(prompts[0].before)
        texts = [prompts[0].before, *(prompt.text for prompt in prompts)]
        encoded = self._model.encode(self._model.preprocess(frames), texts, batch_frames=16)
        rows = [fused.numpy() for fused in encoded.fused]
        return Encoded(encoded.tokens.numpy().astype(np.float16), rows[0], [fused[:, before:] for fused in rows[1:]])

    def _answer(self, world: World, encoded: Encoded, questions: list[Question], way: str) -> list[str]:
        frames = len(encoded.tokens)
        seen = slice(frames - LAST_FRAMES, frames) if way == "last four frames" else slice(0, frames)
        tokens = encoded.tokens[seen]
        anchor = slice(0, SEGMENT_SLOTS) if way == "watch" else slice(None)
        system = as_float(encoded.system[seen][anchor].mean(axis=0))
        pooled = [
            pool_intervals(rows[seen]) if way == "watch" else as_float(rows[seen].mean(axis=0))
            for rows in encoded.questions
        ]
        source = TokenSource((world.seed, frames, way), len(tokens), lambda: (system, tokens))
        asked = [
            (self._prompts.build([(question.text, None)]), rows)
            for question, rows in zip(questions, pooled, strict=True)
        ]
        return [reply.text for reply in self._engine.answer_together(source, asked, MAX_TOKENS)]


def pool_intervals(rows: Array) -> Array:
    """The mean of the intervals' means, each kept in float16 as the service keeps it."""
    means = [rows[first : first + INTERVAL_S] for first in range(0, len(rows), INTERVAL_S)]
    halves = [(len(part), part.mean(axis=0).astype(np.float16).astype(np.float32)) for part in means]
    return as_float(sum(count * mean for count, mean in halves) / len(rows))


def _all(tally: dict[tuple[int, str, str], list[bool]], window_s: int, way: str) -> list[bool]:
    return [right for kind in KINDS for right in tally[window_s, way, kind]]


def _share(found: list[bool]) -> str:
    return f"{np.mean(found):.2f} ({len(found)})" if found else "-"


if __name__ == "__main__":
    main()
