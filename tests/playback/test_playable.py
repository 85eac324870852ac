"""What browsers play is judged by container and codec, and containers are told apart by their first bytes."""

from pathlib import Path

import pytest

from playback.playable import PROBE_BYTES, find_media_type, judge_file
from tests.media import steady, write_video


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("a.mp4", "libx264", "video/mp4"),
        ("a.mov", "libx264", "video/quicktime"),
        ("a.mkv", "libx264", "video/x-matroska"),
        ("a.webm", "libvpx", "video/webm"),
        ("a.avi", "mpeg4", "video/x-msvideo"),
        ("a.ts", "libx264", "video/mp2t"),
        ("a.flv", "libx264", "video/x-flv"),
    ],
)
def test_containers_are_known_by_their_first_bytes(tmp_path: Path, name: str, codec: str, expected: str) -> None:
    file = write_video(tmp_path / name, steady(0.2), codec=codec, options={}, ticks=1000)
    assert find_media_type(file.read_bytes()[:PROBE_BYTES]) == expected
    assert find_media_type(b"") == find_media_type(b"#!/bin/sh") == "application/octet-stream"


def test_browsers_play_h264_in_mp4_and_perhaps_h265() -> None:
    assert judge_file("video/mp4", "h264") == ("yes", None)
    assert judge_file("video/quicktime", "h264").verdict == "yes"
    assert judge_file("video/webm", "vp9").verdict == "yes"
    assert judge_file("video/mp4", "hevc").verdict == "depends"
    for media_type, codec in (("video/x-matroska", "h264"), ("video/mp4", "mjpeg"), ("video/mp2t", None)):
        verdict, hint = judge_file(media_type, codec)
        assert verdict == "no"
        assert "source=pictures" in (hint or "")
