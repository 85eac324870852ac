"""What is stored of a segment: its tokens and the fusions of the texts asked so far."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.errors import DamagedRecord, ForeignRecord

FORMAT = "longwatch.segment/1"
Half = NDArray[np.float16]


def text_id(token_ids: Sequence[int]) -> str:
    """The identity of a prompt's text: a hash of its token ids."""
    return hashlib.sha256(np.asarray(token_ids, dtype="<i8").tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Record:
    """A segment's tokens, and means of fused text over sets of its frames.

    tokens        float16 (n, C, D)   compressed tokens after pre-fusion
    fusions       (text_id, mask) -> float16 (L, D), oldest first
    timestamps_s  n times, seconds from the start of the video
    fingerprint   of the model that made all this
    """

    fingerprint: str
    timestamps_s: tuple[float, ...]
    tokens: Half
    fusions: dict[tuple[str, int], Half] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.timestamps_s)

    def with_fusions(self, fusions: dict[tuple[str, int], Half], *, keep: int, pinned: str) -> "Record":
        """This record with `fusions` added; beyond `keep` of them the oldest go, save those of the text `pinned`."""
        merged = {key: value for key, value in self.fusions.items() if key not in fusions} | fusions
        surplus = len(merged) - keep
        for key in [key for key in merged if key[0] != pinned and key not in fusions][: max(surplus, 0)]:
            del merged[key]
        return replace(self, fusions=merged)

    def to_bytes(self) -> bytes:
        """The record as a safetensors blob."""
        tensors = {"tokens": np.ascontiguousarray(self.tokens, dtype=np.float16)}
        for (text, mask), value in self.fusions.items():
            tensors[f"fusion/{text}/{mask:016x}"] = np.ascontiguousarray(value, dtype=np.float16)
        order = [name for name in tensors if name != "tokens"]  # safetensors itself sorts by name
        metadata = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "timestamps_s": json.dumps(self.timestamps_s),
            "order": json.dumps(order),
        }
        return save(tensors, metadata)


def from_bytes(blob: bytes, path: str, fingerprint: str | None) -> Record:
    """The record in `blob`, read from `path`.

    Raises DamagedRecord where the blob is no whole record, ForeignRecord where its format or (with `fingerprint`)
    its model is another; both name `path`.
    """
    try:
        length = int.from_bytes(blob[:8], "little")
        metadata = json.loads(blob[8 : 8 + length]).get("__metadata__") or {}
        tensors = load(blob)
        if metadata.get("format") != FORMAT:
            raise ForeignRecord(f"{path} has format {metadata.get('format')!r}, not {FORMAT}; it will be rebuilt")
        timestamps_s = tuple(float(t) for t in json.loads(metadata["timestamps_s"]))
        fusions = {_fusion_key(name): tensors[name] for name in json.loads(metadata["order"])}
        record = Record(metadata["fingerprint"], timestamps_s, tensors["tokens"], fusions)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedRecord(f"{path} is damaged and will be rebuilt: {error}") from error
    if record.tokens.ndim != 3 or len(record) != record.tokens.shape[0] or record.tokens.dtype != np.float16:
        raise DamagedRecord(f"{path} is damaged and will be rebuilt: its tokens do not match its times")
    if fingerprint is not None and record.fingerprint != fingerprint:
        raise ForeignRecord(
            f"{path} was made by model {record.fingerprint}, not the running {fingerprint}; it will be rebuilt"
        )
    return record


def _fusion_key(name: str) -> tuple[str, int]:
    _, text, mask = name.split("/")
    return text, int(mask, 16)
