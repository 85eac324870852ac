"""Writes a generated world as a real H.264 file."""

from fractions import Fraction
from pathlib import Path

import av

from training.render import render
from training.world import World

SIDE_PX = 336
CODING = {"crf": "23", "preset": "veryfast", "bf": "2"}


def write_video(world: World, path: Path, fps: int = 10, side_px: int = SIDE_PX, gop: int = 50) -> Path:
    """Writes the whole world at `fps` frames a second, with B-frames and a keyframe at least every `gop` frames.

    The file name decides the container.
    """
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as container:
        stream = container.add_stream("libx264", rate=fps, options=CODING | {"g": str(gop)})
        stream.width = stream.height = side_px
        stream.pix_fmt = "yuv420p"
        for number in range(world.seconds * fps):
            frame = av.VideoFrame.from_ndarray(render(world, number / fps, side_px), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
