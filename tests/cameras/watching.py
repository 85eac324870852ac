"""Watches a camera with PyAV, as any client would."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
from av.video.stream import VideoStream

from tests.media import number_of

OPTIONS = {"fflags": "nobuffer", "probesize": "32768", "analyzeduration": "500000"}
TIMEOUT_S = 5


@dataclass(frozen=True)
class Seen:
    """One decoded frame."""

    number: int
    time_s: float | None
    size: tuple[int, int]


@contextmanager
def watching(url: str, transport: str = "tcp", timeout_s: float = TIMEOUT_S) -> Iterator[Iterator[Seen]]:
    """Opens a camera; yields its frames as they come, until it ends."""
    timeout_us = str(round(timeout_s * 1e6))
    options = OPTIONS | {"timeout": timeout_us, **({"rtsp_transport": transport} if url[:4] == "rtsp" else {})}
    with av.open(url, options=options) as container:
        yield _decode(container, container.streams.video[0])


def _decode(container: av.container.InputContainer, video: VideoStream) -> Iterator[Seen]:
    for frame in container.decode(video):
        yield Seen(
            number_of(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)), frame.time, (frame.width, frame.height)
        )
