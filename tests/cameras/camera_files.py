"""Writes what a camera films: numbered frames at a steady rate, coded as cameras code them."""

from pathlib import Path
from typing import Literal

from tests.media import steady, write_video

Codec = Literal["h264", "hevc", "mjpeg"]


def write_camera_file(
    path: Path,
    seconds: float = 2.0,
    *,
    codec: Codec = "h264",
    fps: float = 15.0,
    gop: int = 15,
    size: tuple[int, int] = (160, 120),
    b_frames: int = 0,
    sound: bool = False,
) -> Path:
    """Writes `seconds` of frames 0, 1, 2 ... (tests/media.py) with a key frame at each `gop` of them.

    The file name must end in .mp4 or .mkv.
    """
    encoders = {
        "h264": ("libx264", {"g": f"{gop}", "bf": f"{b_frames}", "sc_threshold": "0"}),
        "hevc": (
            "libx265",
            {"x265-params": f"log-level=none:keyint={gop}:min-keyint={gop}:bframes={b_frames}:scenecut=0:open-gop=0"},
        ),
        "mjpeg": ("mjpeg", {"huffman": "default"}),  # RTP carries no Huffman tables
    }
    encoder, options = encoders[codec]
    times_s = steady(seconds, fps)
    return write_video(path, times_s, codec=encoder, size=size, options=options, sound=sound, sound_s=seconds)
