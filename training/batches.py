"""Makes batches of generated videos and their questions in separate processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.degrade import DRAWN_PX, Degrader
from training.questions import Question, Stretch, ask
from training.render import render
from training.vocabulary import Vocabulary
from training.world import World, generate

# Videos per batch, frames per video, questions per video, share of batches. About 64 frames a batch.
LENGTHS = ((48, 1, 4, 0.12), (10, 6, 8, 0.14), (4, 16, 12, 0.32), (1, 64, 14, 0.42))
FIRST_BATCHES = 1000
QUESTION_TOKENS, ANSWER_TOKENS = 11, 8
# How often each kind is asked. The last five kinds are reported, but not required yet (docs/training.md).
KIND_WEIGHTS = {
    "exists": 3.0, "needle": 3.0, "colour": 1.5, "shape": 1.5, "room": 0.4, "left-right": 2.5, "height": 2.0,
    "now": 2.5, "where": 2.0, "order": 0.5, "direction": 0.5, "count": 0.4, "times": 0.3, "caption": 0.4,
}  # fmt: skip
PLAIN_SHARE = 0.12  # share of videos whose fused questions are replaced by plain embeddings
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)  # CLIP's (preprocessor_config.json)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
FARTHEST = 400  # in half the videos, vision tokens spread over positions up to here, for lengths never trained
BLOCKED = -1e4  # added to the scores of hidden rows


@dataclass
class Batch:
    """V videos of T frames with Q questions each. `training.model` describes how the rows are laid out."""

    frames: tuple[int, int]  # V, T
    pictures: Tensor  # (V*T,3,S,S)
    before: Tensor  # (B,) ids
    questions: Tensor  # (V,Q,L) ids
    answers: Tensor  # (V,Q,A) ids
    answer_mask: Tensor  # (V,Q,A)
    answer_rows: Tensor  # (V,Q,A) the row of its block that predicts each answer token
    weights: Tensor  # (V,Q,T) weight of each frame in the pooled fusion
    evidence: Tensor  # (V,Q,T) 1 if the frame shows the answer; all 0 if no frame shows more than the others
    plain: Tensor  # (V,) whether the questions go in unfused
    fusion_positions: Tensor  # (R,)
    fusion_bias: Tensor  # (R,R)
    answer_positions: Tensor  # (V,R')
    answer_bias: Tensor  # (V,R',R')
    kinds: list[list[str]]


def normalised(pictures: np.ndarray) -> Tensor:
    """uint8 (N,S,S,3) -> float32 (N,3,S,S), as CLIP's image processor does it."""
    values = (pictures.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))


def stream(seed: int, patches: int, side_px: int, workers: int = 1, start: int = 0) -> Iterator[Batch]:
    """Endless batches. Batch `start` of a seed is always the same. Worlds have even seeds; odd seeds are for tests."""
    context = get_context("spawn")
    queues: list[Any] = [context.Queue(maxsize=8) for _ in range(workers)]
    processes = [
        context.Process(target=_produce_batches, args=(seed, start + k, workers, side_px, queue), daemon=True)
        for k, queue in enumerate(queues)
    ]
    for process in processes:
        process.start()
    number = 0
    while True:
        yield assemble(queues[number % workers].get(), patches)
        number += 1


def draw(number: int, seed: int, side_px: int) -> dict[str, Any]:
    """The raw material of batch `number`: pictures, questions and the frames that matter."""
    rng = np.random.default_rng([seed, number])
    shares = np.array([share for *_, share in LENGTHS])
    if number < FIRST_BATCHES:  # single pictures first: a thing must be seen in one before it is found in many
        shares = np.array([1.0, *shares[1:] * 0.2])
    V, T, Q, _ = LENGTHS[rng.choice(len(LENGTHS), p=shares / shares.sum())]
    degrade = Degrader(int(rng.integers(2**31)), side_px)
    worlds = [generate(2 * int(rng.integers(2**40)), T) for _ in range(V)]
    pictures = [degrade(render(world, k + 0.5, DRAWN_PX)) for world in worlds for k in range(T)]
    asked = [questions_of(world, rng, Q) for world in worlds]
    weights = [[_fusion_weights(question, rng, T) for question in row] for row in asked]
    spread = [np.sort(rng.choice(FARTHEST, T, replace=False)) if rng.random() < 0.5 else np.arange(T) for _ in worlds]
    return {
        "pictures": np.stack(pictures), "asked": asked, "weights": np.array(weights, np.float32),
        "spread": np.stack(spread), "plain": rng.random(V) < PLAIN_SHARE,
    }  # fmt: skip


def questions_of(world: World, rng: np.random.Generator, count: int) -> list[Question]:
    """Draws `count` questions about the whole world. Kinds are drawn by their weights."""
    stretch = Stretch(world, 0, world.seconds)
    kinds, weights = list(KIND_WEIGHTS), np.array(list(KIND_WEIGHTS.values()))
    found: list[Question] = []
    while len(found) < count:
        question = ask(stretch, rng, kinds[rng.choice(len(kinds), p=weights / weights.sum())])
        if question is not None:
            found.append(question)
    return found


def assemble(raw: dict[str, Any], patches: int) -> Batch:
    """Turns raw material into tensors."""
    vocabulary = Vocabulary()
    asked: list[list[Question]] = raw["asked"]
    V, Q, T = raw["weights"].shape
    L, A = QUESTION_TOKENS, ANSWER_TOKENS
    questions, answers = torch.zeros(V, Q, L, dtype=torch.long), torch.zeros(V, Q, A, dtype=torch.long)
    lengths, evidence = torch.zeros(V, Q, 2, dtype=torch.long), torch.zeros(V, Q, T)
    for v, row in enumerate(asked):
        for q, question in enumerate(row):
            text, answer = vocabulary.question(question.text), vocabulary.answer(question.answer)
            questions[v, q, : len(text)] = torch.tensor(text)
            answers[v, q, : len(answer)] = torch.tensor(answer)
            lengths[v, q] = torch.tensor([len(text), len(answer)])
            evidence[v, q, list(question.seconds)] = 1
    before = torch.tensor(vocabulary.before)
    j = torch.arange(A)
    rows = torch.where(j == 0, lengths[..., :1] - 1, L + j - 1)
    positions, bias = answer_layout(len(before), torch.from_numpy(raw["spread"]), lengths[..., 0])
    fusion_positions, fusion_bias = fusion_layout(patches, len(before), Q)
    return Batch(
        frames=(V, T), pictures=normalised(raw["pictures"]), before=before, questions=questions, answers=answers,
        answer_mask=j < lengths[..., 1:], answer_rows=rows, weights=torch.from_numpy(raw["weights"]), evidence=evidence,
        plain=torch.from_numpy(raw["plain"]), fusion_positions=fusion_positions, fusion_bias=fusion_bias,
        answer_positions=positions, answer_bias=bias, kinds=[[question.kind for question in row] for row in asked],
    )  # fmt: skip


def fusion_layout(patches: int, before: int, questions: int) -> tuple[Tensor, Tensor]:
    """Positions (R,) and bias (R,R) of [patches, token, before, questions]. Questions do not see each other."""
    L, shared = QUESTION_TOKENS, patches + 1 + before
    positions = torch.cat([torch.arange(shared), (shared + torch.arange(L)).repeat(questions)])
    block = torch.cat([torch.full((shared,), -1), torch.arange(questions).repeat_interleave(L)])
    return positions, _bias(block, torch.ones(len(block), dtype=torch.bool))


def answer_layout(before: int, spread: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (V,R') and bias (V,R',R') of [before, T tokens, Q blocks of question and answer].

    spread (V,T): positions of the tokens after `before`; lengths (V,Q): tokens of each question without padding.
    """
    L, A = QUESTION_TOKENS, ANSWER_TOKENS
    V, T = spread.shape
    Q = lengths.shape[1]
    vision = before + spread
    start = vision[:, -1:] + 1
    within = torch.cat([torch.arange(L).expand(V, Q, L), lengths[..., None] + torch.arange(A - 1)], dim=2)
    positions = torch.cat([torch.arange(before).expand(V, -1), vision, start + within.flatten(1)], dim=1)
    block = torch.cat([torch.full((before + T,), -1), torch.arange(Q).repeat_interleave(L + A - 1)])
    real = torch.cat([torch.arange(L) < lengths[..., None], torch.ones(V, Q, A - 1, dtype=torch.bool)], dim=2)
    visible = torch.cat([torch.ones(V, before + T, dtype=torch.bool), real.flatten(1)], dim=1)
    return positions, torch.stack([_bias(block, row) for row in visible])


def _bias(block: Tensor, visible: Tensor) -> Tensor:
    """0 if a row may see another, else BLOCKED. It sees earlier shared rows (block -1), its own block and itself."""
    rows = torch.arange(len(block))
    allowed = (rows[None] <= rows[:, None]) & ((block[None] == -1) | (block[None] == block[:, None])) & visible[None]
    allowed |= torch.eye(len(block), dtype=torch.bool)
    return torch.where(allowed, 0.0, BLOCKED)


def _fusion_weights(question: Question, rng: np.random.Generator, frames: int) -> np.ndarray:
    """The frames' weights in the mean: all equal, only a sample, or half sample and half relevant frames (focused)."""
    T = frames
    chance = rng.random()
    if T == 1 or chance < 0.45:
        return np.full(T, 1 / T, np.float32)
    sample = np.zeros(T, np.float32)
    k = min(T, int(rng.integers(4, 17)))
    sample[(np.arange(k) * T + T // 2) // k] = 1 / k
    if chance < 0.6:
        return sample
    K = min(T, int(rng.integers(2, 13)))
    chosen = rng.permutation(np.array(question.seconds, int))[:K]
    chosen = np.concatenate([chosen, rng.permutation(T)[: K - len(chosen)]])
    focus = np.zeros(T, np.float32)
    focus[chosen] = 1
    return np.asarray((sample + focus / focus.sum()) / 2, np.float32)


def _produce_batches(seed: int, first: int, step: int, side_px: int, queue: Any) -> None:
    number = first
    while True:
        queue.put(draw(number, seed, side_px))
        number += step
