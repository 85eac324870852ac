"""Large and odd files are sampled upright in bounded memory, or refused with a reason."""

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from configs.settings import IngestSettings
from ingest.errors import SourceTooLarge, UnsupportedSource
from ingest.files.sampling import Packet, Packets, find_needed_packets
from ingest.files.source import VideoSource
from tests.media import number_of, steady, write_video

SETTINGS = IngestSettings()
MAX_MB = 500
SAMPLE = """
import sys
from pathlib import Path
from configs.settings import IngestSettings
from ingest.files.source import VideoSource
source = VideoSource(Path(sys.argv[1]), IngestSettings())
count = sum(1 for _ in source.sample_frames(1.0))
peak_kb = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(count, int(peak_kb) // 1024)
"""


def sampled_apart(path: Path) -> tuple[int, int]:
    """(frames, peak memory in MB) of a separate process that samples the file."""
    done = subprocess.run([sys.executable, "-c", SAMPLE, str(path)], capture_output=True, text=True, check=True)
    count, peak_mb = done.stdout.split()
    return int(count), int(peak_mb)


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    quick = {"preset": "ultrafast", "g": "60"}
    short = sampled_apart(write_video(tmp_path / "short.mp4", steady(60, fps=4), options=quick))
    long = sampled_apart(write_video(tmp_path / "long.mp4", steady(3600, fps=4), options=quick))
    assert (short[0], long[0]) == (60, 3600)
    assert long[1] < MAX_MB
    assert long[1] - short[1] < 20


def test_a_day_of_packets_fits_in_memory() -> None:
    count = 24 * 3600 * 30
    packets = Packets.collect(Packet(pts, pts % 300 == 0, pts % 2 == 0, pts % 300 == 0) for pts in range(count))
    columns = (packets.pts, packets.key, packets.reference, packets.clean, find_needed_packets(packets, np.arange(3)))
    assert sum(column.nbytes for column in columns) < 40e6


def test_8k_frames_are_sampled_within_the_same_memory(tmp_path: Path) -> None:
    path = write_video(tmp_path / "8k.mp4", steady(3, fps=2), size=(7680, 4320), options={"preset": "ultrafast"})
    count, peak_mb = sampled_apart(path)
    assert count == 3
    assert peak_mb < MAX_MB


def test_frames_larger_than_8k_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "large.mp4", [0.0], size=(8192, 4400), options={"preset": "ultrafast"})
    with pytest.raises(SourceTooLarge, match=r"8192x4400 .*ingest\.max_frame_pixels"):
        VideoSource(path, SETTINGS)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_a_picture_is_turned_as_the_file_asks(degrees: int, turns: int, tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(1), size=(96, 48))
    rotate(path, degrees)
    source = VideoSource(path, SETTINGS)
    assert (source.info.width_px, source.info.height_px) == ((96, 48) if turns == 2 else (48, 96))
    (frame,) = source.sample_frames(1.0)
    assert number_of(np.rot90(frame.model, -turns)) == 12
    assert number_of(frame.model) != 12


def rotate(path: Path, degrees: int) -> None:
    """Makes players turn the picture clockwise, with the matrix in the track's header (ISO/IEC 14496-12, 8.3.2)."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 4 + 40  # version 0: 40 bytes before the matrix
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    rows = (cos, sin, 0, -sin, cos, 0, 0, 0)
    content[matrix : matrix + 32] = struct.pack(">8i", *(value << 16 for value in rows))
    path.write_bytes(content)


def test_a_bare_stream_whose_frames_have_no_times_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "bare.h264", steady(4), options={"bf": "2"})
    with pytest.raises(UnsupportedSource, match="this is not a video file"):
        VideoSource(path, SETTINGS)
