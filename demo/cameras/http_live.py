"""Serves a camera over HTTP to one client: as an endless MPEG-TS, or as MJPEG."""

import asyncio
from collections.abc import Mapping
from fractions import Fraction
from typing import Protocol

import av
from av.container import OutputContainer
from av.packet import Packet

from demo.cameras.clips import AUDIO, VIDEO, VIDEO_CLOCK_HZ, Clip, Track, Unit
from demo.cameras.digest import Accounts
from demo.cameras.faults import Faults
from demo.cameras.file_loop import FileLoop
from demo.cameras.messages import BadRequest, read_request, write_response
from demo.cameras.senders import BACKLOG_BYTES

BOUNDARY = "picture"
TS_PACKET_BYTES, TS_HEADER_BYTES = 188, 4
JPEG_HEADER_BYTES = 1000  # with the tables: damage behind it changes the picture only
TS_START_S = 43_200  # so that a clock that jumps back stays above zero
AAC_RATES_HZ = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)


class _Format(Protocol):
    content_type: str

    def accepts(self, clip: Clip) -> bool:
        """Whether it can carry the clip."""

    def wrap(self, clip: Clip, unit: Unit, shown_s: float, faults: Faults) -> list[bytes]:
        """Returns the bytes of a unit."""

    def close(self) -> None:
        """Frees what it holds."""


class _Multipart:
    content_type = f"multipart/x-mixed-replace; boundary={BOUNDARY}"

    def accepts(self, clip: Clip) -> bool:
        return clip.tracks[VIDEO].codec == "mjpeg"

    def wrap(self, clip: Clip, unit: Unit, shown_s: float, faults: Faults) -> list[bytes]:
        if unit.track == AUDIO:
            return []
        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(unit.data)}\r\n\r\n"
        return [head.encode() + jpeg + b"\r\n" for jpeg in faults.damage([unit.data], JPEG_HEADER_BYTES)]

    def close(self) -> None:
        """Holds nothing."""


class _TransportStream:
    content_type = "video/mp2t"

    def __init__(self) -> None:
        self._clip: Clip | None = None
        self._container: OutputContainer | None = None
        self._decoded_s = 0.0
        self._written = bytearray()

    def accepts(self, clip: Clip) -> bool:
        return clip.tracks[VIDEO].codec != "mjpeg"

    def wrap(self, clip: Clip, unit: Unit, shown_s: float, faults: Faults) -> list[bytes]:
        decoded_s = shown_s - unit.shown_s + unit.decoded_s
        if clip is not self._clip or decoded_s < self._decoded_s:  # a muxer's tracks are fixed and its time only grows
            self.close()
            self._clip = clip
            self._container = av.open(self, "w", format="mpegts", options={"flush_packets": "1"})
            rates = (track.clock_hz if track.codec == "aac" else None for track in clip.tracks)
            self._streams = [
                self._container.add_mux_stream(track.codec, rate)
                for track, rate in zip(clip.tracks, rates, strict=True)
            ]
        assert self._container is not None
        self._decoded_s = decoded_s
        track = clip.tracks[unit.track]
        packet = Packet(unit.data if track.codec != "aac" else _write_adts(track, len(unit.data)) + unit.data)
        packet.stream, packet.time_base = self._streams[unit.track], Fraction(1, VIDEO_CLOCK_HZ)
        packet.pts = round((TS_START_S + shown_s) * VIDEO_CLOCK_HZ)
        packet.dts = round((TS_START_S + decoded_s) * VIDEO_CLOCK_HZ)
        packet.is_keyframe = unit.is_key
        self._container.mux_one(packet)
        data, self._written = self._written, bytearray()
        packets = [bytes(data[at : at + TS_PACKET_BYTES]) for at in range(0, len(data), TS_PACKET_BYTES)]
        return faults.damage(packets, TS_HEADER_BYTES)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()

    def write(self, data: bytes) -> int:
        """The muxer writes here."""
        self._written += data
        return len(data)


def _write_adts(track: Track, size: int) -> bytes:
    """The header that AAC frames have in MPEG-TS (ISO 14496-3, 1.A.2)."""
    rate, whole = AAC_RATES_HZ.index(track.clock_hz), size + 7
    bits = 0xFFF1 << 40 | 1 << 38 | rate << 34 | track.channels << 30 | whole << 13 | 0x7FF << 2
    return bits.to_bytes(7, "big")


class HttpConnection:
    """One client's connection, which has one request. It is a viewer of the camera while it plays."""

    def __init__(
        self, sources: Mapping[str, FileLoop], accounts: Accounts, faults: Faults, writer: asyncio.StreamWriter
    ) -> None:
        self._sources, self._accounts, self._faults, self._writer = sources, accounts, faults, writer
        self._source: FileLoop | None = None
        self._format: _Format = _Multipart()

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answers, and sends until the client leaves."""
        try:
            request = await read_request(reader)
        except BadRequest:
            return self._answer(400)
        if request.method != "GET":
            return self._answer(405)
        if not self._accounts.admit(request.method, request.headers.get("authorization", "")):
            return self._answer(401, [("WWW-Authenticate", value) for value in self._accounts.list_challenges()])
        *name, file = request.read_path() or [""]
        source = self._sources.get("/".join(name)) if name else next(iter(self._sources.values()))
        if source is None or file not in {"live.ts", "live.mjpeg"}:
            return self._answer(404)
        self._format = _TransportStream() if file == "live.ts" else _Multipart()
        if not self._format.accepts(source.clip):
            return self._answer(415)
        self._answer(200, [("Content-Type", self._format.content_type), ("Cache-Control", "no-store")])
        self._source = source
        source.add_viewer(self)
        try:
            while await reader.read(1024):
                pass
        finally:
            source.remove_viewer(self)
            self._format.close()

    def take_unit(self, unit: Unit, shown_s: float) -> None:
        """Sends a unit, if the camera still plays what the client asked for."""
        assert self._source is not None
        if self._format.accepts(self._source.clip):
            for part in self._format.wrap(self._source.clip, unit, shown_s, self._faults):
                self._writer.write(part)

    def is_behind(self) -> bool:
        """Whether the client reads too slowly."""
        return self._writer.transport.get_write_buffer_size() > BACKLOG_BYTES

    def end_cleanly(self) -> None:
        """Sends nothing more; the end of the connection is the end of the stream."""
        if self._source is not None:
            self._source.remove_viewer(self)

    def send_garbage(self, data: bytes) -> None:
        """Sends bytes that mean nothing."""
        self._writer.write(data)

    def _answer(self, status: int, headers: list[tuple[str, str]] | None = None) -> None:
        self._writer.write(write_response("HTTP/1.1", status, [("Connection", "close"), *(headers or [])]))
