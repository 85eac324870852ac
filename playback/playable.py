"""Judges what browsers play, by container and codec. Opens no video: it knows containers by their first bytes."""

from typing import Literal, NamedTuple

Verdict = Literal["yes", "depends", "no"]
PROBE_BYTES = 4096
UNKNOWN = "application/octet-stream"
MATROSKA = b"\x1aE\xdf\xa3"
OTHERS = {b"RIFF": "video/x-msvideo", b"OggS": "video/ogg", b"FLV": "video/x-flv"}
TS_PACKET_BYTES, TS_SYNC = 188, b"\x47"
# Containers that Chrome, Firefox and Safari play, with the codecs that all of them play there.
PLAYED = {
    "video/mp4": ("h264", "av1", "vp9"),
    "video/webm": ("vp8", "vp9", "av1"),
}
PICTURES = "the pictures always play: clip.mp4?source=pictures"


class Playable(NamedTuple):
    """Whether a file plays in a browser, and what to do if it does not."""

    verdict: Verdict
    hint: str | None


def find_media_type(first: bytes) -> str:
    """The media type of a video, by its first bytes."""
    if first[4:8] == b"ftyp":
        return "video/quicktime" if first[8:12] == b"qt  " else "video/mp4"
    if first.startswith(MATROSKA):
        return "video/webm" if b"webm" in first[:64] else "video/x-matroska"
    if first[:1] == TS_SYNC and first[TS_PACKET_BYTES : TS_PACKET_BYTES + 1] == TS_SYNC:
        return "video/mp2t"
    return next((kind for start, kind in OTHERS.items() if first.startswith(start)), UNKNOWN)


def judge_file(media_type: str, codec: str | None) -> Playable:
    """Whether browsers play a file of this type and codec."""
    if media_type == "video/quicktime":  # the same boxes as MP4; browsers look at what is in them
        media_type = "video/mp4"
    if codec in PLAYED.get(media_type, ()):
        return Playable("yes", None)
    if codec == "hevc" and media_type == "video/mp4":
        return Playable("depends", f"H.265 plays in some browsers, if the device decodes it; {PICTURES}")
    return Playable("no", f"no browser plays {codec or 'this codec'} in {media_type}; {PICTURES}")
