"""Speaks RTSP 1.0 (RFC 2326) with one client."""

import asyncio
import re
import secrets
import time
from collections.abc import Mapping

from demo.cameras.clips import Unit
from demo.cameras.digest import Accounts
from demo.cameras.faults import Faults
from demo.cameras.file_loop import FileLoop
from demo.cameras.messages import BadRequest, Request, read_request, write_response
from demo.cameras.rtp import NO_TIMESTAMP, RtpStream
from demo.cameras.sdp import choose_payload_type, describe
from demo.cameras.senders import BACKLOG_BYTES, InterleavedSender, Sender, UdpSender

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER"
REPORT_INTERVAL_S = 5.0  # RFC 3550, 6.2
SESSION_TIMEOUT_S = 60  # announced; a session ends with its connection
RTP_HEADER_BYTES = 12

Answer = tuple[int, list[tuple[str, str]], bytes]


class _SentTrack:
    def __init__(self, sender: Sender, stream: RtpStream) -> None:
        self.sender, self.stream = sender, stream
        self.report_due_s = 0.0


class _Session:
    """What one client has set up. It is a viewer of the camera while it plays."""

    def __init__(self, source: FileLoop, faults: Faults, writer: asyncio.StreamWriter) -> None:
        self.name = secrets.token_hex(8)
        self.tracks: dict[int, _SentTrack] = {}
        self.source, self._faults, self._writer = source, faults, writer

    def take_unit(self, unit: Unit, shown_s: float) -> None:
        track = self.tracks.get(unit.track)
        if track is None:
            return
        if time.monotonic() >= track.report_due_s:
            track.report_due_s = time.monotonic() + REPORT_INTERVAL_S
            # Also before the first packet: a client needs it to play sound and pictures at the same time.
            wall_s, clock_s = time.time() + self._faults.clock_jump_s, self.source.read_clock_s()
            track.sender.send_report(track.stream.report(wall_s, track.stream.stamp(clock_s)))
        timestamp = NO_TIMESTAMP if self._faults.has_no_timestamps else track.stream.stamp(shown_s)
        packets = track.stream.wrap(unit.payloads, timestamp)
        track.sender.send_media(self._faults.damage(packets, RTP_HEADER_BYTES))

    def is_behind(self) -> bool:
        return self._writer.transport.get_write_buffer_size() > BACKLOG_BYTES

    def close(self, politely: bool = False) -> None:
        self.source.remove_viewer(self)
        for track in self.tracks.values():
            if politely:
                track.sender.send_report(track.stream.leave())
            track.sender.close()


class RtspConnection:
    """One client's connection, which has one session at most."""

    def __init__(
        self, sources: Mapping[str, FileLoop], accounts: Accounts, faults: Faults, writer: asyncio.StreamWriter
    ) -> None:
        self._sources, self._accounts, self._faults, self._writer = sources, accounts, faults, writer
        self._session: _Session | None = None

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Answers until the client leaves."""
        try:
            while True:
                first = await reader.readexactly(1)
                if first == b"$":  # RTCP from the client
                    await reader.readexactly(int.from_bytes((await reader.readexactly(3))[1:], "big"))
                    continue
                request = await read_request(reader, first)
                status, headers, body = await self._answer(request)
                headers.insert(0, ("CSeq", request.headers.get("cseq", "0")))
                self._writer.write(write_response("RTSP/1.0", status, headers, body))
                if request.method == "PLAY" and status == 200 and self._session is not None:
                    self._session.source.add_viewer(self._session)
                if request.method == "TEARDOWN" and status == 200:
                    return
        except BadRequest:
            self._writer.write(write_response("RTSP/1.0", 400, []))
        finally:
            self._close_session()

    def end_cleanly(self) -> None:
        """Says goodbye as a camera does at the end of a recording."""
        self._close_session(politely=True)

    def send_garbage(self, data: bytes) -> None:
        """Sends bytes that mean nothing, between the packets or as a datagram."""
        tracks = self._session.tracks.values() if self._session else ()
        for track in tracks:
            if isinstance(track.sender, UdpSender):
                track.sender.send_media([data[:1400]])
                return
        self._writer.write(data)

    def _close_session(self, politely: bool = False) -> None:
        if self._session is not None:
            self._session.close(politely)
            self._session = None

    async def _answer(self, request: Request) -> Answer:
        if request.method == "OPTIONS":
            return 200, [("Public", METHODS)], b""
        if not self._accounts.admit(request.method, request.headers.get("authorization", "")):
            return 401, [("WWW-Authenticate", value) for value in self._accounts.list_challenges()], b""
        if request.method == "DESCRIBE":
            return self._describe(request)
        if request.method == "SETUP":
            return await self._set_up(request)
        return self._control(request)

    def _describe(self, request: Request) -> Answer:
        name = "/".join(request.read_path())
        source = self._sources.get(name)
        if source is None:
            return 404, [], b""
        base = request.url.rstrip("/") + "/"
        headers = [("Content-Base", base), ("Content-Type", "application/sdp")]
        return 200, headers, describe(source.clip, name).encode()

    async def _set_up(self, request: Request) -> Answer:
        *name, control = request.read_path() or [""]
        source = self._sources.get("/".join(name))
        number = int(control[-1:]) if re.fullmatch(r"trackID=\d", control) else -1
        if source is None or not 0 <= number < len(source.clip.tracks):
            return 404, [], b""
        if self._session is None:
            self._session = _Session(source, self._faults, self._writer)
        elif self._session.source is not source:
            return 455, [], b""
        sender = await self._open_sender(request.headers.get("transport", ""))
        if sender is None:
            return 461, [], b""
        track = source.clip.tracks[number]
        if number in self._session.tracks:
            self._session.tracks[number].sender.close()
        stream = RtpStream(choose_payload_type(track), track.clock_hz)
        self._session.tracks[number] = _SentTrack(sender, stream)
        session = f"{self._session.name};timeout={SESSION_TIMEOUT_S}"
        return 200, [("Transport", f"{sender.transport};ssrc={stream.ssrc:08X}"), ("Session", session)], b""

    async def _open_sender(self, transport: str) -> Sender | None:
        """Agrees to the first offer that can be met. Multicast cannot."""
        for offer in transport.split(","):
            if "RTP/AVP/TCP" in offer and (channels := re.search(r"interleaved=(\d+)-(\d+)", offer)):
                return InterleavedSender(self._writer, (int(channels[1]), int(channels[2])))
            if "TCP" not in offer and (ports := re.search(r"client_port=(\d+)-(\d+)", offer)):
                host, client = (self._writer.get_extra_info(end)[0] for end in ("sockname", "peername"))
                return await UdpSender.open(host, client, (int(ports[1]), int(ports[2])))
        return None

    def _control(self, request: Request) -> Answer:
        if request.method not in {"PLAY", "TEARDOWN", "GET_PARAMETER"}:
            return 501, [("Public", METHODS)], b""
        named = request.headers.get("session", "").partition(";")[0]
        if self._session is None or (named and named != self._session.name):
            return (200, [], b"") if request.method == "GET_PARAMETER" and not named else (454, [], b"")
        headers = [("Session", self._session.name)]
        if request.method == "PLAY":
            headers.append(("Range", "npt=now-"))
            base = request.url.rstrip("/")
            infos = [f"url={base}/trackID={n};seq={t.stream.sequence}" for n, t in self._session.tracks.items()]
            headers.append(("RTP-Info", ",".join(infos)))
        return 200, headers, b""
