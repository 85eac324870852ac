"""Watches a camera with PyAV, as any client would."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np

from tests.media import number_of

OPTIONS = {"probesize": "32768", "analyzeduration": "500000", "fpsprobesize": "0"}
TIMEOUT_S = 5


@dataclass(frozen=True)
class Seen:
    """One decoded frame."""

    number: int
    time_s: float | None
    size: tuple[int, int]

    @classmethod
    def read(cls, frame: av.VideoFrame) -> "Seen":
        """Reads the number that the picture spells."""
        picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        return cls(number_of(picture), frame.time, (frame.width, frame.height))


@contextmanager
def watching(
    url: str, transport: str = "tcp", timeout_s: float = TIMEOUT_S, *, skip_damaged: bool = False
) -> Iterator[Iterator[Seen]]:
    """Opens a camera; yields its frames as they come, until it ends. Damaged packets raise, or are skipped."""
    timeout_us = str(round(timeout_s * 1e6))
    options = OPTIONS | {"timeout": timeout_us, **({"rtsp_transport": transport} if url[:4] == "rtsp" else {})}
    with av.open(url, options=options) as container:
        yield _skip_damaged(container) if skip_damaged else map(Seen.read, container.decode(video=0))


def _skip_damaged(container: av.container.InputContainer) -> Iterator[Seen]:
    for packet in container.demux(video=0):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            continue
        yield from map(Seen.read, frames)
