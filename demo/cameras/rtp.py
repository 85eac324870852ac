"""Cuts coded pictures and sound into RTP packets. Knows nothing of sockets or clocks."""

import secrets
import struct
from collections.abc import Iterator
from itertools import pairwise

PAYLOAD_BYTES = 1400  # with all headers below the 1500 bytes of an Ethernet frame
UNIX_TO_NTP_S = 2_208_988_800  # RFC 5905: NTP counts from 1900
NO_TIMESTAMP = 0xFFFFFFFF  # FFmpeg reads this RTP timestamp as none (RTP_NOTS_VALUE in rtpdec.h)

H264_FU_A = 28  # RFC 6184, 5.8
HEVC_FU = 49  # RFC 7798, 4.4.3

# The Huffman tables of ITU-T T.81, K.3. RFC 2435 sends none and relies on them.
_AC_CLASSES = {  # table's class and number -> how many codes have 1, 2, ... 16 bits
    0x00: bytes.fromhex("00010501010101010100000000000000"),
    0x01: bytes.fromhex("00030101010101010101010000000000"),
    0x10: bytes.fromhex("0002010303020403050504040000017d"),
    0x11: bytes.fromhex("00020102040403040705040400010277"),
}


def packetize(codec: str, data: bytes) -> list[bytes]:
    """Returns the RTP payloads of one coded unit: Annex B for H.264 and H.265, a whole JPEG, or one AAC frame."""
    if codec == "mjpeg":
        return list(_packetize_jpeg(data))
    if codec == "aac":
        return [struct.pack(">HH", 16, len(data) << 3) + data]  # RFC 3640, 3.3.6: one 16-bit header, size in 13 bits
    fragment = _fragment_h264 if codec == "h264" else _fragment_hevc
    return [payload for nal in split_nals(data) for payload in ([nal] if len(nal) <= PAYLOAD_BYTES else fragment(nal))]


def split_nals(data: bytes) -> list[bytes]:
    """Splits an Annex B byte stream at its start codes."""
    starts = []
    at = data.find(b"\0\0\1")
    while at >= 0:
        starts.append(at + 3)
        at = data.find(b"\0\0\1", at + 3)
    # A start code may have one more zero before it; no NAL unit ends in a zero (H.264, 7.4.1).
    return [data[begin : end - 3].rstrip(b"\0") for begin, end in pairwise([*starts, len(data) + 3])]


def _fragment_h264(nal: bytes) -> Iterator[bytes]:
    indicator, kind = nal[0] & 0xE0 | H264_FU_A, nal[0] & 0x1F
    for chunk, flags in _cut(nal[1:], PAYLOAD_BYTES - 2):
        yield bytes((indicator, flags | kind)) + chunk


def _fragment_hevc(nal: bytes) -> Iterator[bytes]:
    header, kind = bytes((nal[0] & 0x81 | HEVC_FU << 1, nal[1])), nal[0] >> 1 & 0x3F
    for chunk, flags in _cut(nal[2:], PAYLOAD_BYTES - 3):
        yield header + bytes((flags | kind,)) + chunk


def _cut(body: bytes, size: int) -> Iterator[tuple[bytes, int]]:
    """Chunks of the body with the flags of a fragmentation unit: 0x80 on the first, 0x40 on the last."""
    for at in range(0, len(body), size):
        yield body[at : at + size], (0x80 if at == 0 else 0) | (0x40 if at + size >= len(body) else 0)


def _packetize_jpeg(jpeg: bytes) -> Iterator[bytes]:
    """RFC 2435, 3.1: a main header on each packet; the quantization tables travel in the first one of each picture."""
    tables: dict[int, bytes] = {}
    kind = width = height = interval = 0
    for marker, body in _jpeg_segments(jpeg):
        if marker == 0xDB:  # DQT
            tables |= {body[at] & 0x0F: body[at + 1 : at + 65] for at in range(0, len(body), 65)}
        elif marker == 0xC4:  # DHT
            _check_huffman(body)
        elif marker == 0xC0:  # SOF0
            height, width = struct.unpack(">HH", body[1:5])
            kind = _jpeg_type(body)
        elif marker in {0xC1, 0xC2, 0xC3}:
            raise ValueError("RTP carries baseline JPEG only; encode the file as baseline")
        elif marker == 0xDD:  # DRI
            (interval,) = struct.unpack(">H", body)
        elif marker == 0xDA:  # SOS: the rest is the scan
            scan = body
    if max(width, height) > 2040:
        raise ValueError(f"RTP carries JPEG up to 2040x2040, not {width}x{height}; make the pictures smaller")
    quantization = b"".join(tables[number] for number in sorted(tables))
    restart = struct.pack(">HH", interval, 0xFFFF) if interval else b""
    first = struct.pack(">BBH", 0, 0, len(quantization)) + quantization
    at = 0
    while at < len(scan):
        # Q = 255: the tables are in the packet and may change with each picture.
        header = struct.pack(">IBBBB", at, kind + 64 * bool(interval), 255, (width + 7) // 8, (height + 7) // 8)
        header += restart + (first if at == 0 else b"")
        chunk = scan[at : at + PAYLOAD_BYTES - len(header)]
        yield header + chunk
        at += len(chunk)


def _jpeg_segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, body) of each segment. The body of the last one, SOS, is the scan without the end marker."""
    at = 2
    while at + 4 <= len(jpeg):
        marker, length = struct.unpack(">xBH", jpeg[at : at + 4])
        if marker == 0xDA:
            yield marker, jpeg[at + 2 + length :].removesuffix(b"\xff\xd9")
            return
        yield marker, jpeg[at + 4 : at + 2 + length]
        at += 2 + length
    raise ValueError("a JPEG without a scan; encode the file again")


def _jpeg_type(frame_header: bytes) -> int:
    """RFC 2435, 4.1: type 0 has half the colours in width, type 1 in width and height."""
    sampling = {frame_header[7 + 3 * part] for part in range(frame_header[5])}
    if sampling in ({0x21, 0x11}, {0x22, 0x12}):
        return 0
    if sampling == {0x22, 0x11}:
        return 1
    raise ValueError("RTP carries JPEG with 4:2:0 or 4:2:2 colours only; encode the file as yuvj420p")


def _check_huffman(body: bytes) -> None:
    at = 0
    while at < len(body):
        counts = body[at + 1 : at + 17]
        if counts != _AC_CLASSES.get(body[at]):
            raise ValueError("RTP carries JPEG with standard Huffman tables only; encode with -huffman default")
        at += 17 + sum(counts)


class RtpStream:
    """The running numbers of one track in one session."""

    def __init__(self, payload_type: int, clock_hz: int) -> None:
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(16)
        self._base = secrets.randbits(32)
        self._payload_type, self._clock_hz = payload_type, clock_hz
        self._packets = self._octets = 0

    def stamp(self, shown_s: float) -> int:
        """Returns the RTP timestamp of a time."""
        return (self._base + round(shown_s * self._clock_hz)) & 0xFFFFFFFF

    def wrap(self, payloads: list[bytes], timestamp: int) -> list[bytes]:
        """Puts RTP headers before the payloads of one unit. The last packet has the marker."""
        packets = []
        for number, payload in enumerate(payloads, 1):
            marker = 0x80 if number == len(payloads) else 0
            head = struct.pack(">BBHII", 0x80, marker | self._payload_type, self.sequence, timestamp, self.ssrc)
            packets.append(head + payload)
            self.sequence = self.sequence + 1 & 0xFFFF
            self._octets += len(payload)
        self._packets += len(payloads)
        return packets

    def report(self, wall_s: float, timestamp: int) -> bytes:
        """Returns an RTCP sender report: at `wall_s` (UNIX time) the track's clock shows `timestamp`."""
        ntp = round((wall_s + UNIX_TO_NTP_S) * 2**32)
        counts = self._packets & 0xFFFFFFFF, self._octets & 0xFFFFFFFF
        sender_report = struct.pack(">BBHIQIII", 0x80, 200, 6, self.ssrc, ntp, timestamp, *counts)
        name = b"\x01\x06camera" + bytes(4)  # SDES with a CNAME, ended and padded to whole words
        return sender_report + struct.pack(">BBHI", 0x81, 202, 1 + len(name) // 4, self.ssrc) + name

    def leave(self) -> bytes:
        """Returns an RTCP BYE."""
        return struct.pack(">BBHI", 0x81, 203, 1, self.ssrc)
