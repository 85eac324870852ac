"""One thread owns the model and runs batches across jobs: frames of different videos go through it together."""

import logging
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llava_mini.model import Encoded, LlavaMini

log = logging.getLogger(__name__)

Mean = NDArray[np.float32]  # (L,D) fused text, averaged over frames
Wish = tuple[tuple[int, ...], Sequence[int]]  # a text's token ids, and over which of the n frames it is averaged


@dataclass(frozen=True)
class Encodings:
    """The results for n frames."""

    tokens: NDArray[np.float32]  # (n,C,D)
    means: list[Mean]  # one (L_i,D) per wish


@dataclass(eq=False)  # compared by identity: comparing the tensors of two jobs would fail
class Work:
    """The frames of one job, and their results so far."""

    count: int
    pixels: Callable[[int, int], Tensor]  # (first, stop) -> (stop-first,pictures,3,S,S)
    wishes: Sequence[Wish]
    urgent: bool
    done: int = 0
    tokens: list[Tensor] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    error: BaseException | None = None
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def texts(self) -> tuple[tuple[int, ...], ...]:
        """The texts that its frames are fused with; work with the same ones shares batches."""
        return tuple(dict.fromkeys(ids for ids, _ in self.wishes))


class Scheduler:
    """Job threads hand in work and wait. Each batch begins with urgent work (a question), if there is any."""

    def __init__(self, model: LlavaMini, batch_frames: int) -> None:
        self._model = model
        self._batch_frames = batch_frames
        self._new: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._pending: list[Work] = []
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def encode(
        self, count: int, pixels: Callable[[int, int], Tensor], wishes: Sequence[Wish], *, urgent: bool
    ) -> Encodings:
        """Tokens of `count` frames, and the mean of each wish, summed in float32; raises what the model raises.

        `pixels` gives the frames' pixel values on demand, so that no more than a batch of them is in memory.
        """
        work = Work(count, pixels, wishes, urgent)
        self._new.put(work)
        work.ended.wait()
        if work.error is not None:
            raise work.error
        means = [(total / len(places)).numpy() for total, (_, places) in zip(work.sums, wishes, strict=True)]
        return Encodings(torch.cat(work.tokens).float().numpy(), means)

    def _run(self) -> None:
        while True:
            if not self._pending:
                self._pending.append(self._new.get())
            while not self._new.empty():
                self._pending.append(self._new.get())
            batch = self._next_batch()
            self._try_batch(batch)
            for work, _, _ in batch:
                if work.error is not None or work.done == work.count:
                    self._pending.remove(work)
                    work.ended.set()

    def _next_batch(self) -> list[tuple[Work, int, int]]:
        """(work, first, stop) of the next work, and of other work with the same texts until the batch is full."""
        first = min(self._pending, key=lambda work: not work.urgent)
        parts, room = [], self._batch_frames
        for work in [first, *(other for other in self._pending if other is not first)]:
            if room and work.texts == first.texts:
                stop = min(work.done + room, work.count)
                parts.append((work, work.done, stop))
                room -= stop - work.done
        return parts

    def _try_batch(self, batch: list[tuple[Work, int, int]]) -> None:
        """Runs the batch. If it fails, each job's part runs by itself, so that only the job at fault fails."""
        try:
            self._run_batch(batch)
        except Exception as error:  # noqa: BLE001 - the job raises it in its own thread
            traceback.clear_frames(error.__traceback__)  # the error outlives the batch and would keep its tensors
            if len(batch) == 1:
                batch[0][0].error = error
                return
            for part in batch:
                self._try_batch([part])

    def _run_batch(self, batch: list[tuple[Work, int, int]]) -> None:
        texts = batch[0][0].texts
        pixels = torch.cat([work.pixels(first, stop) for work, first, stop in batch])
        encoded = self._encode(pixels, texts)
        row = 0
        for work, first, stop in batch:
            rows = slice(row, row + stop - first)
            work.tokens.append(encoded.tokens[rows])
            fused = dict(zip(texts, (text[rows] for text in encoded.fused), strict=True))
            if not work.sums:
                work.sums = [torch.zeros(fused[ids].shape[1:]) for ids, _ in work.wishes]
            for total, (ids, places) in zip(work.sums, work.wishes, strict=True):
                chosen = [place - first for place in places if first <= place < stop]
                if chosen:
                    total.add_(fused[ids][chosen].float().sum(0))
            work.done, row = stop, rows.stop

    def _encode(self, pixels: Tensor, texts: Sequence[tuple[int, ...]]) -> Encoded:
        """Encodes the whole batch at once; while memory runs out, in halves, quarters and so on."""
        size = len(pixels)
        while True:
            try:
                return self._model.encode(pixels, texts, size)
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise
                traceback.clear_frames(error.__traceback__)  # its frames hold the failed attempt's tensors
            size = (size + 1) // 2
            torch.cuda.empty_cache()
            log.warning("out of memory: trying again with %d frames at once", size)
