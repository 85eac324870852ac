"""Lists a video's packets before any is decoded: their times, keyframes, and which are references."""

import logging
from collections.abc import Iterator

import av
from av.container import InputContainer
from av.packet import Packet as CodedPacket
from av.video.stream import VideoStream

from ingest.errors import UnsupportedSource
from ingest.files.sampling import Packet
from storage.text import escape_controls

log = logging.getLogger(__name__)

IDR, LAST_PICTURE_NAL = 5, 5  # H.264 table 7-1: types 1 to 5 are coded pictures


def read_packets(container: InputContainer, stream: VideoStream) -> "Iterator[CodedPacket[VideoStream]]":
    """The stream's packets in decoding order, up to the first damage; the same each time the file is opened."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.FFmpegError as error:
        log.warning("%s: the file is damaged: %s", escape_controls(container.name), error)


def list_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """What is known of each packet of the stream; raises UnsupportedSource if one has no time."""
    h264 = stream.codec_context.name == "h264"
    length_bytes = _length_bytes(stream.codec_context.extradata) if h264 else 0
    for packet in read_packets(container, stream):
        if packet.pts is None and packet.dts is None:
            raise UnsupportedSource("the file's frames carry no times; remux it, e.g. into mp4")
        kind, reference = find_first_picture(memoryview(packet), length_bytes) if h264 else (0, True)
        yield Packet(
            packet.pts,
            packet.is_keyframe,
            reference,
            clean=kind == IDR,
            shown=not packet.is_discard,
            dts=packet.dts,
            duration=packet.duration or 0,
        )


def find_first_picture(data: memoryview, length_bytes: int) -> tuple[int, bool]:
    """(NAL type, whether it is a reference) of the first coded picture in an H.264 packet.

    `length_bytes` is the size of the length in front of each NAL unit, 0 for start codes (Annex B). A packet without
    one counts as a reference, so it is decoded.
    """
    for header in _headers_by_length(data, length_bytes) if length_bytes else _headers_by_start_code(bytes(data)):
        kind = header & 31
        if 1 <= kind <= LAST_PICTURE_NAL:
            return kind, bool(header >> 5 & 3)
    return 0, True


def _headers_by_length(data: memoryview, length_bytes: int) -> Iterator[int]:
    at = 0
    while at + length_bytes < len(data):
        yield data[at + length_bytes]
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")


def _headers_by_start_code(data: bytes) -> Iterator[int]:
    at = data.find(b"\0\0\1")
    while 0 <= at < len(data) - 3:
        yield data[at + 3]
        at = data.find(b"\0\0\1", at + 3)


def _length_bytes(extradata: bytes | None) -> int:
    """The size of the lengths. avcC (ISO/IEC 14496-15, 5.3.3.1) begins with 1 and holds it in its fifth byte."""
    return (extradata[4] & 3) + 1 if extradata and len(extradata) > 6 and extradata[0] == 1 else 0
