"""Turns pictures into tokens and fused text. Knows nothing of videos, queues or files."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from encoder_worker.scheduler import Encodings, Scheduler, Wish
from llava_mini.model import LlavaMini
from llava_mini.prompt import PromptBuilder
from storage.errors import DamagedFile
from storage.records import text_id

Picture = NDArray[np.uint8]  # (h,w,3) RGB


class Encoder:
    """The vision half with the system prompt, which is fused with every frame before any question comes."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, batch_frames: int) -> None:
        self._model = model
        self._prompts = prompts
        self._scheduler = Scheduler(model, batch_frames)
        self.fingerprint = model.fingerprint
        self.system_text = tuple(prompts.build([("", None)]).before)
        self.system_id = text_id(self.system_text)

    def build_question(self, question: str) -> tuple[tuple[int, ...], int]:
        """The token ids of a question's whole prompt, and the first row that the system prompt's fusion lacks."""
        prompt = self._prompts.build([(question, None)])
        return tuple(prompt.text), len(prompt.before)

    def encode_frames(self, frames: Sequence[Picture], wishes: Sequence[Wish], *, urgent: bool = False) -> Encodings:
        """Tokens of n frames of video (side x side), and the mean of each wish."""
        stacked = np.stack(frames)
        return self._scheduler.encode(
            len(stacked), lambda first, stop: self._model.preprocess(stacked[first:stop]), wishes, urgent=urgent
        )

    def encode_image(self, image: Picture, wishes: Sequence[Wish], *, urgent: bool = False) -> Encodings:
        """Tokens of an image of any size, preprocessed as the public code does, and the mean of each wish."""
        pixels = self._model.preprocess_image(image)
        shaped = pixels[:, 0] if self._model.config.pictures == 1 else pixels  # shaped like frames, to share batches
        return self._scheduler.encode(1, lambda *_: shaped, wishes, urgent=urgent)


def decode_jpeg(picture: bytes, where: str) -> Picture:
    """Decodes a JPEG to RGB (side,side,3); raises DamagedFile, which says `where` it is."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    if image is None or image.shape[0] != image.shape[1]:
        raise DamagedFile(f"{where} is not a whole JPEG for the model; restore it, or add the video again")
    return np.asarray(image[..., ::-1], np.uint8)
