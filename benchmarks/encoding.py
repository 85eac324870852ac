"""Frames a second of the vision half: batches with many prompts at once, against one frame and one prompt at a time.

Both sides compute the same tokens and fused texts from the same random weights (`shapes/mid`), and their results are
compared. The plain side works as the public implementation does: it runs every CLIP layer, every row through all of
pre-fusion, and the whole prompt again for each question (benchmarks/plain.py).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from benchmarks.plain import PlainVision
from benchmarks.recipe import write_checkpoint
from benchmarks.report import write_json
from llava_mini.config import read_json
from llava_mini.model import LlavaMini
from llava_mini.placement import DTYPES
from llava_mini.text_table import table

SHAPE = Path(__file__).parent / "shapes" / "mid"
SEED, STD = 1004, 0.05  # of the recipe (golden/README.md)
BEFORE_TOKENS, AFTER_TOKENS = 30, 13  # 43 in all, as in the paper's counts
VOCABULARY = 4096
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}  # relative L2, through 10 layers of random weights


@dataclass(frozen=True)
class Case:
    """The work of both sides, and the precision of each."""

    questions: int
    plain_dtype: str = "float32"
    our_dtype: str = "float32"


@dataclass(frozen=True)
class Row:
    """One case on both sides: medians over the rounds. Both sides run in each round."""

    case: Case
    plain_fps: float
    our_fps: float
    ratio: float
    plain_cpu_s: float
    our_cpu_s: float
    difference: float  # relative L2 between the two sides' results


@dataclass(frozen=True)
class Timed:
    """One side's result, and the time it took."""

    result: list[Tensor]
    wall_s: float
    cpu_s: float


# Float32 on both sides shows the gain from skipped work and shared patches. Bfloat16 shows what a CPU with it adds.
CASES = (
    Case(questions=0),
    Case(questions=1),
    Case(questions=2),
    Case(questions=4),
    Case(questions=1, plain_dtype="bfloat16", our_dtype="bfloat16"),
    Case(questions=1, our_dtype="bfloat16"),
)


def main() -> None:
    """Measures, prints and writes results/encoding.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--batch-frames", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    pixels = torch.randn(given.frames, 1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = _checkpoint(Path(folder) / "mid")
        rows = [_measure(case, checkpoint, pixels, given) for case in CASES]
    print(f"{given.frames} frames, {torch.get_num_threads()} threads, batches of {given.batch_frames}")
    print(table(["questions", "plain frames/s", "here frames/s", "ratio", "relative difference"], _cells(rows)))
    settings = {"frames": given.frames, "batch_frames": given.batch_frames, "repeats": given.repeats}
    software = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    write_json("encoding", {**settings, **software, "rows": [asdict(row) for row in rows]})


def _checkpoint(folder: Path) -> Path:
    width = int(read_json(SHAPE / "clip" / "config.json")["hidden_size"])
    write_checkpoint(SHAPE, folder, seed=SEED, std=STD, positions=_sincos_of_one_position(width))
    return folder


def _sincos_of_one_position(width: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """The 2D sin-cos table of a 1x1 grid (1,V): for each axis the sines of 0, then the cosines."""
    quarter = width // 4
    axis = np.concatenate([np.zeros(quarter), np.ones(quarter)])
    return np.concatenate([axis, axis])[None].astype(np.float32)


def _texts(questions: int) -> list[list[int]]:
    """The prompts of that many questions. For 0 questions: the system prompt, which every record holds."""
    generator = np.random.default_rng(5)
    before = generator.integers(3, VOCABULARY, BEFORE_TOKENS).tolist()
    return [before + generator.integers(3, VOCABULARY, AFTER_TOKENS).tolist() for _ in range(questions)] or [before]


def _measure(case: Case, checkpoint: Path, pixels: Tensor, given: argparse.Namespace) -> Row:
    ours = LlavaMini.from_pretrained(checkpoint, parts=("vision",), dtype=case.our_dtype)
    plain = PlainVision.from_pretrained(checkpoint, DTYPES[case.plain_dtype])
    texts = _texts(case.questions)
    pairs = [
        (
            _timed(lambda: _encode_plainly(plain, pixels, texts)),
            _timed(lambda: _encode(ours, pixels, texts, given.batch_frames)),
        )
        for _ in range(given.repeats)
    ]
    difference = max(_distance(*both) for both in zip(pairs[0][1].result, pairs[0][0].result, strict=True))
    if difference > TOLERANCE[case.our_dtype]:
        raise SystemExit(f"{case}: the two sides differ by {difference}")
    return Row(
        case,
        plain_fps=len(pixels) / median(plain.wall_s for plain, _ in pairs),
        our_fps=len(pixels) / median(ours.wall_s for _, ours in pairs),
        ratio=median(plain.wall_s / ours.wall_s for plain, ours in pairs),
        plain_cpu_s=median(plain.cpu_s for plain, _ in pairs),
        our_cpu_s=median(ours.cpu_s for _, ours in pairs),
        difference=difference,
    )


def _distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs.float()).norm() / theirs.float().norm())


def _encode_plainly(plain: PlainVision, pixels: Tensor, texts: list[list[int]]) -> list[Tensor]:
    results = [[plain.encode_frame(frame, text) for frame in pixels] for text in texts]
    tokens = torch.stack([tokens for tokens, _ in results[0]])
    return [tokens, *(torch.stack([fused for _, fused in frames]) for frames in results)]


def _encode(ours: LlavaMini, pixels: Tensor, texts: list[list[int]], batch_frames: int) -> list[Tensor]:
    encoded = ours.encode(pixels, texts, batch_frames)
    return [encoded.tokens, *encoded.fused]


def _timed(run: Callable[[], list[Tensor]]) -> Timed:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return Timed(result, time.perf_counter() - wall, time.process_time() - cpu)


def _cells(rows: list[Row]) -> list[list[str]]:
    return [
        [
            _describe(row.case),
            f"{row.plain_fps:.1f}",
            f"{row.our_fps:.1f}",
            f"{row.ratio:.2f}x",
            f"{row.difference:.1e}",
        ]
        for row in rows
    ]


def _describe(case: Case) -> str:
    questions = str(case.questions) if case.questions else "none yet (system prompt)"
    dtypes = {case.plain_dtype, case.our_dtype}
    return f"{questions}, {case.our_dtype if len(dtypes) == 1 else f'{case.plain_dtype} against {case.our_dtype}'}"


if __name__ == "__main__":
    main()
