"""Turns JPEG pictures into tokens and fused text. Knows nothing of videos, queues or files."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from llava_mini.model import LlavaMini, pool
from llava_mini.prompt import PromptBuilder
from storage.errors import DamagedRecord
from storage.records import Half, text_id

Mean = NDArray[np.float32]  # (L,D) fused text, averaged over frames


@dataclass(frozen=True)
class Encodings:
    """What one pass over n pictures yields."""

    tokens: Half  # (n,C,D)
    means: list[Mean]  # one (L_i,D) per text


class Encoder:
    """The vision half with the system prompt, which is fused with every frame before anyone asks."""

    def __init__(self, model: LlavaMini, prompts: PromptBuilder, batch_frames: int) -> None:
        self._model = model
        self._batch_frames = batch_frames
        self.fingerprint = model.fingerprint
        self.system_text = prompts.build([("", None)]).before
        self.system_id = text_id(self.system_text)

    def encode(self, pictures: Sequence[bytes], texts: Sequence[Sequence[int]]) -> Encodings:
        """Tokens of n JPEG pictures, and each text's fusion averaged over all n in their order, in float32.

        Raises DamagedRecord naming the place of a picture that is none.
        """
        frames = np.stack([decoded(picture, place) for place, picture in enumerate(pictures)])
        encoded = self._model.encode(self._model.preprocess(frames), texts, self._batch_frames)
        means = [pool(fused).numpy() for fused in encoded.fused]
        return Encodings(encoded.tokens.numpy().astype(np.float16), means)


def decoded(picture: bytes, place: int = 0) -> NDArray[np.uint8]:
    """RGB (h,w,3) of a JPEG; raises DamagedRecord naming its place among others."""
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR) if picture else None
    if image is None:
        raise DamagedRecord(f"picture {place} of those to encode is no JPEG")
    return np.asarray(image[..., ::-1], np.uint8)
