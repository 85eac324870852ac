"""Turns pictures into tokens and fused text. Knows nothing of videos, queues or files."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from storage.errors import DamagedRecord
from storage.records import Half, text_id

SIDE_PX = 336  # the archive's frames, whatever the model (docs/design.md)

Frames = NDArray[np.uint8]  # (n,336,336,3) RGB
Mean = NDArray[np.float32]  # (L,D) fused text, averaged over frames
Wish = tuple[Sequence[int], Sequence[int]]  # a text's token ids, and over which of the n frames it is averaged


@dataclass(frozen=True)
class Encodings:
    """What one pass over n frames yields."""

    tokens: Half  # (n,C,D)
    means: list[Mean]  # one (L_i,D) per wish


class Encoder:
    """The vision half with the system prompt, which is fused with every frame before anyone asks."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, batch_frames: int) -> None:
        self._model = model
        self._batch_frames = batch_frames
        self.fingerprint = model.fingerprint
        self.system_text = prompts.build([("", None)]).before
        self.system_id = text_id(self.system_text)

    def encode(self, frames: Frames, wishes: Sequence[Wish]) -> Encodings:
        """Tokens of n frames, and the mean of each wish: summed in float32 in the frames' order.

        All wishes share one pass over the frames' patches; only one batch of fused text is in memory at a time.
        """
        texts = list(dict.fromkeys(tuple(ids) for ids, _ in wishes))
        sums = [torch.zeros(len(ids), self._model.config.hidden_size) for ids, _ in wishes]
        tokens = []
        for first in range(0, len(frames), self._batch_frames):
            batch = frames[first : first + self._batch_frames]
            encoded = self._model.encode(self._model.preprocess(batch), texts)
            tokens.append(encoded.tokens.numpy().astype(np.float16))
            for total, (ids, places) in zip(sums, wishes, strict=True):
                fused = encoded.fused[texts.index(tuple(ids))]  # (batch,L,D)
                for place in range(first, first + len(batch)):
                    if place in places:
                        total.add_(fused[place - first])
        means = [(total / len(places)).numpy() for total, (_, places) in zip(sums, wishes, strict=True)]
        return Encodings(np.concatenate(tokens), means)


def decoded(picture: bytes, where: str = "the picture") -> NDArray[np.uint8]:
    """RGB (336,336,3) of a JPEG; raises DamagedRecord saying `where` it lies."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    if image is None or image.shape != (SIDE_PX, SIDE_PX, 3):
        raise DamagedRecord(f"{where} is no whole JPEG of {SIDE_PX}x{SIDE_PX}; restore it, or add the video anew")
    return np.asarray(image[..., ::-1], np.uint8)
