"""Measures a checkpoint's accuracy, or its calibration, through the service's own path.

The path is: H.264 file, sampler, JPEG, encoder, engine.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import DynamicCache

from configs.loading import load_settings
from configs.settings import IngestSettings, ReasonerSettings, Settings
from encoder_worker.encoder import decode_jpeg
from ingest.files.source import VideoSource
from llava_mini.language_half import LanguageHalf
from llava_mini.model import LlavaMini, pool
from llava_mini.probability import Gauge
from llava_mini.prompt import PromptBuilder
from reasoner.engine import Engine, Limits, Outcome, TokenSource
from reasoner.focus import Array, as_float
from storage.documents import FusionMode, Options
from storage.timeline import SEGMENT_SLOTS
from training.calibration import BINS, YES_NO, Said, fit_temperature, measure_all
from training.files import write_video
from training.questions import KINDS, Question, ask
from training.questions import Stretch as Asked
from training.vocabulary import Vocabulary
from training.world import World, generate

MODES: tuple[FusionMode, ...] = ("focused", "sampled", "exact")
VIDEOS = {16: 60, 64: 60, 256: 40}  # frames -> how many videos
FIRST_SEED = 1_000_001  # worlds with odd seeds are never trained on
FITTED_SEED = 2_000_001  # the calibration's temperature is fitted on worlds from here on
CALIBRATED_KINDS = (*KINDS, *(YES_NO * 7))  # a question of each, and seven more to be answered with yes or no
FPS = 5
Heard = dict[FusionMode, list[Said]]
Tally = dict[tuple[int, str, str], list[bool]]


class OverheardLanguage(LanguageHalf):
    """Keeps the logits (V,) of the answer that began last. A question is scored once more after its first look."""

    first_logits: Tensor

    def score(
        self, cache: DynamicCache, question_embeds: Tensor, vision_span: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Scores, and keeps the logits."""
        scored = super().score(cache, question_embeds, vision_span)
        self.first_logits = scored[0]
        return scored


class Overheard(LlavaMini):
    """The model with such a language half."""

    @cached_property
    def language(self) -> OverheardLanguage:
        """The language half."""
        return OverheardLanguage(super().language.llm)


class Examinee:
    """Both halves of the model, used as the workers use them."""

    def __init__(self, settings: Settings) -> None:
        chosen, reasoner = settings.model, ReasonerSettings()
        self._model = Overheard.from_pretrained(chosen.checkpoint, dtype=chosen.dtype, device=chosen.device)
        self._prompts = PromptBuilder.from_pretrained(
            self._model.folder, system=chosen.system_prompt, generation_prompt=chosen.generation_prompt
        )
        limits = Limits(reasoner.sample_frames, reasoner.focus_frames, reasoner.focus_baseline, 12, 2**30)
        self._engine = Engine(self._model, self._prompts, limits)
        self._ingest = IngestSettings()

    @property
    def gauge(self) -> Gauge:
        """Measures probabilities, as the checkpoint is calibrated."""
        return self._prompts.gauge

    def answers(self, path: Path, questions: Sequence[str]) -> Iterator[dict[FusionMode, tuple[str, Tensor]]]:
        """For each question about the file: mode -> answer, and the logits (V,) of its first token."""
        file = VideoSource(path, self._ingest)
        jpegs = [frame.pictures.model_jpeg for frame in file.sample_frames(1.0)]
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
            answered: dict[FusionMode, tuple[str, Tensor]] = {}
            for mode in MODES:
                source = exact if mode == "exact" else extending
                text = "".join(self._engine.answer(source, prompt, mode, Options(), fuse, Outcome()))
                answered[mode] = text, self._model.language.first_logits
            yield answered


def _mean(rows: Array, places: Sequence[int]) -> Array:
    return as_float(rows[list(places)].mean(axis=0))


def examine(examinee: Examinee, frames: int, videos: int, tally: Tally) -> None:
    """Asks one question of each kind about each of `videos` videos."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(videos):
            world = generate(FIRST_SEED + 2 * number, frames)
            asked = questions_about(world)
            path = write_video(world, Path(folder) / f"{frames}-{world.seed}.mp4", fps=FPS)
            for question, answers in zip(asked, examinee.answers(path, [q.text for q in asked]), strict=True):
                for mode, (answer, _) in answers.items():
                    tally[frames, mode, question.kind].append(answer.strip() == question.answer)
            path.unlink()


def questions_about(world: World, kinds: Sequence[str] = KINDS) -> list[Question]:
    """One question of every one of the kinds that fits the world."""
    rng = np.random.default_rng(world.seed)
    found = (ask(Asked(world, 0, world.seconds), rng, kind) for kind in kinds)
    return [question for question in found if question is not None]


def listen(examinee: Examinee, frames: int, videos: int, first_seed: int, heard: Heard) -> None:
    """Asks each of `videos` videos the questions of the calibration, and notes how each answer begins."""
    vocabulary = Vocabulary()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(videos):
            world = generate(first_seed + 2 * number, frames)
            asked = list({question.text: question for question in questions_about(world, CALIBRATED_KINDS)}.values())
            path = write_video(world, Path(folder) / f"{frames}-{world.seed}.mp4", fps=FPS)
            for question, answers in zip(asked, examinee.answers(path, [q.text for q in asked]), strict=True):
                truth = vocabulary.encode(question.answer)[0]
                for mode, (_, logits) in answers.items():
                    heard[mode].append(Said(question.kind, logits, truth))
            path.unlink()


def table(tally: Tally, lengths: Sequence[int]) -> Table:
    """One row per kind, one column per length and mode; the last row is the mean over kinds."""
    result = Table("kind", *(f"{frames} {mode}" for frames in lengths for mode in MODES), box=None)
    columns = [(frames, mode) for frames in lengths for mode in MODES]
    for kind in KINDS:
        result.add_row(kind, *(_share(tally[frames, mode, kind]) for frames, mode in columns))
    means = [np.mean([np.mean(row) for kind in KINDS if (row := tally[f, m, kind])]) for f, m in columns]
    result.add_row("mean", *(f"{mean:.3f}" for mean in means))
    return result


def listen_to_all(examinee: Examinee, first_seed: int, part: float) -> Heard:
    """Listens to the answers about videos of all lengths."""
    heard: Heard = defaultdict(list)
    for frames, videos in VIDEOS.items():
        listen(examinee, frames, max(int(videos * part), 1), first_seed, heard)
    return heard


def calibration_table(heard: Heard, gauge: Gauge) -> Table:
    """One row per mode and group of kinds: errors, then "share right of probability (count)" in each bin."""
    edges = [f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}" for place in range(BINS)]
    result = Table("mode", "kinds", "n", "ECE", "Brier", *edges, box=None)
    for mode, answers in heard.items():
        for group, chosen in group_by_kind(answers).items():
            found = measure_all(chosen, gauge)
            bins = [f"{b.right:.2f} of {b.probability:.2f} ({b.count})" if b.count else "-" for b in found.bins]
            result.add_row(mode, group, str(found.count), f"{found.error:.3f}", f"{found.brier:.3f}", *bins)
    return result


def group_by_kind(answers: Sequence[Said]) -> dict[str, list[Said]]:
    """The groups whose calibration is shown."""
    return {
        "yes or no": [said for said in answers if said.kind in YES_NO],
        **{kind: [said for said in answers if said.kind == kind] for kind in YES_NO},
        "others": [said for said in answers if said.kind not in YES_NO],
    }


def report_calibration(examinee: Examinee, part: float, console: Console) -> None:
    """Fits temperatures on some worlds. Prints the calibration on others, without one and with that of all modes."""
    fitted = listen_to_all(examinee, FITTED_SEED, part)
    measured = listen_to_all(examinee, FIRST_SEED, part)
    plain = replace(examinee.gauge, temperature=1.0)
    sides = {mode: group_by_kind(answers)["yes or no"] for mode, answers in fitted.items()}
    temperature = fit_temperature(list(chain.from_iterable(sides.values())), plain)
    console.print(f"temperature fitted on yes and no: {temperature:g}")
    for mode, answers in sides.items():
        console.print(f"of {mode} alone (n = {len(answers)}): {fit_temperature(answers, plain):g}")
    for each in (1.0, temperature):
        console.print(f"temperature {each:g}, other worlds")
        console.print(calibration_table(measured, replace(plain, temperature=each)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="tiny")
    parser.add_argument("--checkpoint", help="folder; default: the configured one")
    parser.add_argument("--part", type=float, default=1.0, help="share of the videos to use, for a quick look")
    parser.add_argument("--calibration", action="store_true", help="measure probabilities instead of accuracy")
    parser.add_argument("--json", type=Path, help="file for the shares of right answers")
    options = parser.parse_args()
    settings = load_settings(options.config)
    if options.checkpoint:
        model = settings.model.model_copy(update={"checkpoint": options.checkpoint})
        settings = settings.model_copy(update={"model": model})
    examinee, tally = Examinee(settings), defaultdict[tuple[int, str, str], list[bool]](list)
    console = Console(width=240 if options.calibration else 160)
    if options.calibration:
        report_calibration(examinee, options.part, console)
        return
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
