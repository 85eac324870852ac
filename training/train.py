"""Trains the shipped checkpoint from nothing: first the vision tower, then all of it. Resumable and seeded."""

import argparse
import itertools
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.batches import LENGTHS, Batch, stream
from training.export import export
from training.model import TrainingModel, answer_loss, evidence_loss
from training.shape import PATCH_PX, SIDE_PX, tiny_config
from training.tower import Heads, learning_rate, noise_at, pictures
from training.vocabulary import Vocabulary

SEED = 20261121
TOWER_STEPS, STEPS = 1000, 4600
TOWER_PEAK, PEAK = 2e-3, 1.3e-3
SAVE_INTERVAL_S = 120.0
EVIDENCE_WEIGHT = 0.2
BETAS, WEIGHT_DECAY, CLIP_NORM = (0.9, 0.98), 0.02, 1.0  # docs/training.md


class Run:
    """A training run that can stop at any time: model, heads, optimiser, and the progress of each stage."""

    def __init__(self, work: Path, compiled: bool) -> None:
        torch.manual_seed(SEED)
        self.model = TrainingModel(tiny_config(len(Vocabulary())), compiled)
        self.heads = Heads(self.model.config.vision.hidden_size, SIDE_PX // PATCH_PX)
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=0.0, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)
        self.done = {"tower": 0, "all": 0}  # steps of each stage
        self.seconds = 0.0
        self._path = work / "run.pt"
        if self._path.exists():
            self._load()

    def save(self, name: str = "run") -> None:
        """Saves everything needed to resume. The old state stays until the new one is complete."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{name}.new")
        torch.save(self._parts() | {"done": self.done, "seconds": self.seconds}, new)
        new.replace(self._path.with_name(f"{name}.pt"))

    def _load(self) -> None:
        state = torch.load(self._path, weights_only=True)
        for name, part in self._live().items():
            part.load_state_dict(state[name])
        self.done, self.seconds = state["done"], state["seconds"]

    def _live(self) -> dict[str, Any]:
        return {"model": self.model, "heads": self.heads, "optimiser": self.optimiser}

    def _parts(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self._live().items()}

    def run_stage(self, stage: str, steps: int, peak: float, losses: Iterable[tuple[Tensor, str]]) -> None:
        """Runs the stage to its end. `losses` yields each step's loss and a note to print."""
        saved = began = time.monotonic()
        recent: deque[float] = deque(maxlen=100)
        for loss, note in itertools.islice(losses, steps - self.done[stage]):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(self.done[stage] / steps, peak)
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimiser.step()
            recent.append(loss.item())
            self.done[stage] += 1
            now = time.monotonic()
            if self.done[stage] % 50 == 0:
                minutes = (self.seconds + now - began) / 60
                mean = sum(recent) / len(recent)
                print(f"{stage} {self.done[stage]}/{steps}  {minutes:.1f} min  loss {mean:.3f}  {note}", flush=True)
            if now - saved > SAVE_INTERVAL_S:
                self.seconds += now - began
                began = saved = now
                self.save()
        self.seconds += time.monotonic() - began
        self.save()


def tower_losses(run: Run, steps: int) -> Iterable[tuple[Tensor, str]]:
    """Stage 0."""
    side = SIDE_PX // PATCH_PX
    for images, labels in pictures(SEED + run.done["tower"], side, SIDE_PX):
        with torch.autocast("cpu", torch.bfloat16):
            seen = run.model.features(images)
        loss, colour, shape = run.heads(seen.float(), noise_at(run.done["tower"] / steps), labels)
        yield loss, f"patches right: colour {colour:.3f} shape {shape:.3f}"


def answer_losses(run: Run) -> Iterable[tuple[Tensor, str]]:
    """Stage 1."""
    tally = Tally()
    patches = (SIDE_PX // PATCH_PX) ** 2
    for batch in stream(SEED, patches, SIDE_PX, start=run.done["all"]):
        with torch.autocast("cpu", torch.bfloat16):
            logits, attention = run.model(batch)
        loss, right = answer_loss(logits, batch)
        missing = evidence_loss(attention, batch)
        tally.add(batch, right)
        yield (
            loss + EVIDENCE_WEIGHT * missing,
            f"evidence {missing.item():.3f}" + tally.format_shares() if (run.done["all"] + 1) % 50 == 0 else "",
        )


class Tally:
    """Running share of right answers (teacher-forced) per length and kind."""

    def __init__(self) -> None:
        self._right: dict[tuple[int, str], deque[float]] = {}

    def add(self, batch: Batch, right: Tensor) -> None:
        """Counts a batch's answers."""
        for kinds, row in zip(batch.kinds, right.tolist(), strict=True):
            for kind, value in zip(kinds, row, strict=True):
                self._right.setdefault((batch.frames[1], kind), deque(maxlen=200)).append(float(value))

    def format_shares(self) -> str:
        """Formats the share of each kind, one line per length."""
        parts = []
        for _, length, _, _ in LENGTHS:
            shares = {kind: sum(d) / len(d) for (t, kind), d in sorted(self._right.items()) if t == length}
            parts.append(f"\n    T={length}: " + " ".join(f"{kind} {share:.2f}" for kind, share in shares.items()))
        return "".join(parts)


def main() -> None:
    """The command line: starts or resumes training, and writes the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, default=Path("data/training"), help="folder of the state to resume from")
    parser.add_argument("--tower-steps", type=int, default=TOWER_STEPS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(
        "--export-only", action="store_true", help="write the checkpoint from the saved state, without training"
    )
    parser.add_argument("--no-compile", action="store_true", help="for machines without a C++ compiler; slower")
    options = parser.parse_args()
    run = Run(options.work, compiled=not (options.no_compile or options.export_only))
    if not options.export_only:
        run.run_stage("tower", options.tower_steps, TOWER_PEAK, tower_losses(run, options.tower_steps))
        if run.done["all"] == 0:
            run.save("tower")
        run.run_stage("all", options.steps, PEAK, answer_losses(run))
    export(run.model, options.out)
    print(f"wrote {options.out} after {run.seconds / 60:.0f} minutes of training")


if __name__ == "__main__":
    main()
