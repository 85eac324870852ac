"""Identifies a checkpoint's weights: cheap to compute, and independent of how the files are sharded."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from llava_mini.errors import CheckpointError

WHOLE_BYTES = 1024 * 1024  # tensors up to this size are hashed whole: norms, biases and all of a small model
SAMPLE_BYTES = 16 * 1024  # hashed from the start, middle and end of larger tensors: 15 MB of an 8B checkpoint
LENGTH_BYTES = 8  # a safetensors file begins with the length of its header, little-endian
MAX_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class _Entry:
    path: Path
    description: str  # dtype and shape
    start: int
    end: int


def fingerprint(configs: Iterable[Mapping[str, Any]], *files: Mapping[str, Path]) -> str:
    """Hashes the configurations and every tensor's name, dtype, shape and (sampled) bytes to 16 hex digits.

    `files`: tensor name -> safetensors file, for each set of files. Raises CheckpointError.
    """
    digest = hashlib.sha256()
    for config in configs:
        digest.update(json.dumps(config, sort_keys=True).encode())
    for names in files:
        _digest_tensors(names, digest.update)
    return digest.hexdigest()[:16]


def _digest_tensors(names: Mapping[str, Path], update: Any) -> None:
    headers = {path: _read_header(path) for path in sorted(set(names.values()))}
    entries = dict(chain.from_iterable(header.items() for header in headers.values()))
    for name in sorted(names):
        if name not in headers[names[name]]:
            raise CheckpointError(f"{names[name]} lacks {name}")
        entry = entries[name]
        update(f"{name}:{entry.description}:".encode())
        with entry.path.open("rb") as file:
            for piece in _read_samples(file, entry):
                update(piece)


def _read_samples(file: BinaryIO, entry: _Entry) -> Iterable[bytes]:
    if entry.end - entry.start <= WHOLE_BYTES:
        file.seek(entry.start)
        yield file.read(entry.end - entry.start)
        return
    for place in (entry.start, (entry.start + entry.end - SAMPLE_BYTES) // 2, entry.end - SAMPLE_BYTES):
        file.seek(place)
        yield file.read(SAMPLE_BYTES)


def _read_header(path: Path) -> dict[str, _Entry]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{path} is not a safetensors file")
            values = json.loads(file.read(length))
        first = LENGTH_BYTES + length
        entries = {
            name: _Entry(path, f"{value['dtype']}{value['shape']}", *(first + n for n in value["data_offsets"]))
            for name, value in values.items()
            if name != "__metadata__"
        }
        size = path.stat().st_size
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or missing: {error}") from error
    if any(entry.end > size for entry in entries.values()):
        raise CheckpointError(f"{path} is cut off after {size} bytes")
    return entries
