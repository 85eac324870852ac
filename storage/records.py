"""Records of encoded segments: the frames' tokens, and the system prompt fused with them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.errors import DamagedFile, ForeignRecord
from storage.timeline import places_in

FORMAT = "longwatch.tokens/2"
Half = NDArray[np.float16]


def text_id(token_ids: Sequence[int]) -> str:
    """The identity of a prompt's text: a hash of its token ids."""
    return hashlib.sha256(np.asarray(token_ids, dtype="<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """A segment's tokens.

    fingerprint  of the model that made them
    mask         which of the segment's slots have a frame
    tokens       float16 (n, C, D)  compressed tokens after pre-fusion, one row per frame, in time order
    system_id    text_id of the system prompt
    system       float16 (L, D)  the system prompt's fusion, averaged over all n frames
    """

    fingerprint: str
    mask: int
    tokens: Half
    system_id: str
    system: Half

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def to_bytes(self) -> bytes:
        """The record as a safetensors blob."""
        metadata = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "mask": f"{self.mask:016x}",
            "system_id": self.system_id,
        }
        tensors = {"tokens": np.ascontiguousarray(self.tokens), "system": np.ascontiguousarray(self.system)}
        return save(tensors, metadata)


def select_tokens(tokens: Half, mask: int, wanted: int) -> Half:
    """The rows of the frames `wanted` from the tokens of the frames in `mask`."""
    if wanted == mask:
        return tokens
    return tokens[[row for row, place in enumerate(places_in(mask)) if wanted >> place & 1]]


def parse_record(blob: bytes, path: str, fingerprint: str) -> Record:
    """The record in `blob`, read from `path`.

    Raises DamagedFile if the blob is not a whole record, ForeignRecord for another format or model; both name `path`.
    """
    try:
        length = int.from_bytes(blob[:8], "little")
        metadata = json.loads(blob[8 : 8 + length]).get("__metadata__") or {}
        if metadata.get("format") != FORMAT:
            raise ForeignRecord(f"{path} has format {metadata.get('format')!r}, not {FORMAT}; it will be rebuilt")
        tensors = load(blob)
        record = Record(
            metadata["fingerprint"],
            int(metadata["mask"], 16),
            tensors["tokens"],
            metadata["system_id"],
            tensors["system"],
        )
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{path} is damaged and will be rebuilt: {error}") from error
    if record.tokens.ndim != 3 or len(record) != record.mask.bit_count() or record.tokens.dtype != np.float16:
        raise DamagedFile(f"{path} is damaged and will be rebuilt: its tokens do not match its mask")
    if record.fingerprint != fingerprint:
        raise ForeignRecord(
            f"{path} was made by model {record.fingerprint}, not the running {fingerprint}; it will be rebuilt"
        )
    return record
