"""A long video for measuring decoders: a real clip, repeated. Every frame shows its own number."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CLIP = Path(__file__).parent.parent / "demo" / "safari.mp4"
FPS, WIDTH_PX, HEIGHT_PX = 30, 1280, 720
BITS = 15
BLOCK_PX = WIDTH_PX // (BITS + 1)  # the number's bits are a row of blocks along the upper edge
DARK, BRIGHT = 20, 230
X264 = {"preset": "medium", "crf": "23", "g": "180", "bf": "3"}  # x264's defaults, but a keyframe every six seconds

Plane = NDArray[np.uint8]


def write_footage(path: Path, seconds: int) -> None:
    """Writes H.264 with B-frames, 1280x720 at 30 fps. The file gets its name only when it is complete."""
    import av  # missing from the peers' environment

    unfinished = path.with_suffix(".part.mp4")
    with av.open(str(unfinished), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=X264)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, "yuv420p"
        for number, planes in zip(range(seconds * FPS), _clip(), strict=False):
            _stamp(planes, number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode(None))
    unfinished.replace(path)


def number_of(picture: Plane) -> int:
    """The number that an RGB picture of any size shows."""
    height, width = picture.shape[:2]
    row = int(BLOCK_PX / 2 * height / HEIGHT_PX)
    columns = [int((bit + 0.5) * BLOCK_PX * width / WIDTH_PX) for bit in range(BITS)]
    return sum(1 << bit for bit, column in enumerate(columns) if picture[row, column].mean() > (DARK + BRIGHT) / 2)


def _clip() -> Iterator[Plane]:
    """Repeats the clip's frames for ever: yuv420p planes (3/2 height, width), luma first."""
    import av

    while True:
        with av.open(str(CLIP)) as container:
            for frame in container.decode(video=0):
                yield np.asarray(frame.reformat(WIDTH_PX, HEIGHT_PX, "yuv420p").to_ndarray(), np.uint8)


def _stamp(planes: Plane, number: int) -> None:
    """Draws the number over the upper edge, in grey."""
    planes[:BLOCK_PX] = DARK
    for bit in range(BITS):
        if number >> bit & 1:
            planes[:BLOCK_PX, bit * BLOCK_PX : (bit + 1) * BLOCK_PX] = BRIGHT
    for first in (HEIGHT_PX, HEIGHT_PX * 5 // 4):  # the two colour planes; one row here holds two of theirs
        planes[first : first + BLOCK_PX // 4] = 128
