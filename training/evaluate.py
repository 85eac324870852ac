"""Measures a checkpoint's accuracy through the service's own path: H.264 file, sampler, JPEG, encoder, engine."""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from configs.loading import load_settings
from configs.settings import IngestSettings, ReasonerSettings, Settings
from encoder_worker.encoder import decode_jpeg
from ingest.files.source import VideoSource
from llava_mini.model import LlavaMini, pool
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine, Limits, Outcome, TokenSource
from reasoner.focus import Array, as_float
from storage.documents import FusionMode, Options
from storage.timeline import SEGMENT_SLOTS
from training.files import write_video
from training.questions import KINDS, Question, ask
from training.questions import Stretch as Asked
from training.world import World, generate

MODES: tuple[FusionMode, ...] = ("focused", "sampled", "exact")
VIDEOS = {16: 60, 64: 60, 256: 40}  # frames -> how many videos
FIRST_SEED = 1_000_001  # worlds with odd seeds are never trained on
FPS = 5
Tally = dict[tuple[int, str, str], list[bool]]


class Examinee:
    """Both halves of the model, used as the workers use them."""

    def __init__(self, settings: Settings) -> None:
        chosen, reasoner = settings.model, ReasonerSettings()
        self._model = LlavaMini.from_pretrained(chosen.checkpoint, dtype=chosen.dtype, device=chosen.device)
        self._prompts = PromptBuilder.from_pretrained(
            self._model.folder, system=chosen.system_prompt, generation_prompt=chosen.generation_prompt
        )
        limits = Limits(reasoner.sample_frames, reasoner.focus_frames, reasoner.focus_baseline, 12, 2**30)
        self._engine = Engine(self._model, self._prompts, limits)
        self._ingest = IngestSettings()

    def answers(self, path: Path, questions: Sequence[str]) -> Iterator[dict[str, str]]:
        """For each question about the file: mode -> answer."""
        source = VideoSource(path, self._ingest)
        jpegs = [frame.pictures.model_jpeg for frame in source.sample_frames(1.0)]
        frames = np.stack([decode_jpeg(jpeg, path.name) for jpeg in jpegs])
        prompts = [self._prompts.build([(question, None)]) for question in questions]
        texts = [prompts[0].before, *(prompt.text for prompt in prompts)]
        encoded = self._model.encode(self._model.preprocess(frames), texts, batch_frames=16)
        tokens = encoded.tokens.numpy().astype(np.float16)
        anchor, whole = pool(encoded.fused[0][:SEGMENT_SLOTS]).numpy(), pool(encoded.fused[0]).numpy()
        extending = TokenSource((path.name, "anchor"), len(tokens), lambda: (anchor, tokens))
        exact = TokenSource((path.name, "all"), len(tokens), lambda: (whole, tokens))
        for prompt, fused in zip(prompts, encoded.fused[1:], strict=True):
            fuse = partial(_mean, fused[:, len(prompt.before) :].numpy())
            yield {
                mode: "".join(
                    self._engine.answer(
                        exact if mode == "exact" else extending, prompt, mode, Options(), fuse, Outcome()
                    )
                )
                for mode in MODES
            }


def _mean(rows: Array, places: Sequence[int]) -> Array:
    return as_float(rows[list(places)].mean(axis=0))


def examine(examinee: Examinee, frames: int, videos: int, tally: Tally) -> None:
    """Asks one question of each kind about each of `videos` videos."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(videos):
            world = generate(FIRST_SEED + 2 * number, frames)
            asked = questions_about(world)
            path = write_video(world, Path(folder) / f"{frames}-{number}.mp4", fps=FPS)
            for question, answers in zip(asked, examinee.answers(path, [q.text for q in asked]), strict=True):
                for mode, answer in answers.items():
                    tally[frames, mode, question.kind].append(answer.strip() == question.answer)
            path.unlink()


def questions_about(world: World) -> list[Question]:
    """One question of every kind that fits the world."""
    rng = np.random.default_rng(world.seed)
    found = (ask(Asked(world, 0, world.seconds), rng, kind) for kind in KINDS)
    return [question for question in found if question is not None]


def table(tally: Tally, lengths: Sequence[int]) -> Table:
    """One row per kind, one column per length and mode; the last row is the mean over kinds."""
    result = Table("kind", *(f"{frames} {mode}" for frames in lengths for mode in MODES), box=None)
    columns = [(frames, mode) for frames in lengths for mode in MODES]
    for kind in KINDS:
        result.add_row(kind, *(_share(tally[frames, mode, kind]) for frames, mode in columns))
    means = [np.mean([np.mean(row) for kind in KINDS if (row := tally[f, m, kind])]) for f, m in columns]
    result.add_row("mean", *(f"{mean:.3f}" for mean in means))
    return result


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--checkpoint", help="folder; default: the configured one")
    parser.add_argument("--part", type=float, default=1.0, help="share of the videos to use, for a quick look")
    parser.add_argument("--json", type=Path, help="file for the shares of right answers")
    options = parser.parse_args()
    settings = load_settings(options.config)
    if options.checkpoint:
        model = settings.model.model_copy(update={"checkpoint": options.checkpoint})
        settings = settings.model_copy(update={"model": model})
    examinee, tally = Examinee(settings), defaultdict[tuple[int, str, str], list[bool]](list)
    console = Console(width=160)
    for frames, videos in VIDEOS.items():
        examine(examinee, frames, max(int(videos * options.part), 1), tally)
        console.print(table(tally, [frames]))
    if options.json:
        shares = {f"{f}/{m}/{k}": [float(np.mean(v)), len(v)] for (f, m, k), v in tally.items() if v}
        options.json.write_text(json.dumps(shares, indent=1) + "\n", encoding="utf-8")


def _share(rows: Sequence[bool]) -> str:
    return f"{np.mean(rows):.2f}" if rows else "-"


if __name__ == "__main__":
    main()
