"""Opens a camera at an address that was checked, and says what is wrong in words that tell what to do.

FFmpeg's errors carry the URL with the password in it. Only their `strerror` is used, and they are never chained.
"""

import errno
import ipaddress
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LookUpTimeout
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

import av
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from configs.private_hosts import parse_private_host
from ingest.cameras.camera_messages import CameraPlan
from storage.text import escape_controls

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
RTSP = ("rtsp", "rtsps")
# Neither playlists nor SDP files: they make FFmpeg open further addresses.
DEMUXERS = {"rtsp": "rtsp,mpegts", "rtsps": "rtsp,mpegts", "http": "mpegts,mpjpeg", "https": "mpegts,mpjpeg"}
PROTOCOLS = {"rtsp": "rtp,tcp,udp", "rtsps": "rtp,tcp,tls,udp", "http": "http,tcp", "https": "http,https,tcp,tls"}
VIDEO_CODECS = ("h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9", "libdav1d", "av1")
CODED_BEYOND_SHOWN = 2  # coded pictures are padded to whole blocks, so a decoder may exceed the limit on shown ones
PROBE_BYTES, PROBE_US = 1_000_000, 1_000_000  # enough for parameters that come with the first keyframe
SAFE_IN_LOGINS = "!$&'()*+,;=~-._"  # FFmpeg holds 127 bytes of an RTSP login, so no more is encoded than must be
MOST_RTSP_LOGIN_BYTES = 127
LOSS = "RTP: missed"
LATE_SHARE = 0.95  # of the time limit


Endpoint = tuple[str, int]  # address, port


class CameraProblem(Exception):
    """Why a camera cannot be captured. `code` is stable; the message is for people and shows no credentials."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, eq=False)
class OpenCamera:
    """A connection that is set up. Its packets may be read."""

    container: InputContainer
    video: VideoStream
    has_timestamps: bool  # False: what FFmpeg gives as timestamps is made up
    streams_seen: int


@contextmanager
def open_camera(plan: CameraPlan) -> Iterator[OpenCamera]:
    """Connects to the camera. Raises CameraProblem."""
    url = _split_url(plan.url)
    ends_at = time.monotonic() + plan.connect_timeout_s
    addresses = _find_addresses(url, plan, ends_at)
    for left in range(len(addresses), 0, -1):
        limit_s = max((ends_at - time.monotonic()) / left, 0.1)
        try:
            container = _connect(url, addresses[-left], plan, limit_s)
            break
        except CameraProblem as problem:
            if left == 1 or problem.code not in ("camera-refused", "camera-timeout"):
                raise
    with container:
        yield _choose_video(container, plan)


def read_packets(camera: OpenCamera, streams: "list[Stream]", plan: CameraPlan) -> "Iterator[Packet[Any]]":
    """The packets of these streams as they arrive. Raises CameraProblem when the connection ends, as all do.

    Packets to which something is missing are marked as corrupt.
    """
    name = _name(_split_url(plan.url))
    problem = CameraProblem("camera-ended", f"{name} ended the stream; it is tried again")
    packets = (packet for packet in camera.container.demux(streams) if packet.size)
    try:
        yield from _mark_losses(packets) if plan.transport == "udp" else packets
    except av.FFmpegError as error:
        problem = _explain(error, name, f"sent nothing for {plan.silence_s:g} s")
    raise problem  # outside of the handler, so that the error with the URL is not its context


def _mark_losses(packets: "Iterator[Packet[Any]]") -> "Iterator[Packet[Any]]":
    """Marks the packets to which a part is missing that was lost on the way (UDP).

    FFmpeg tells of a loss only in its log, while it reads either the packet itself or the one before it.
    """
    av.logging.set_skip_repeated(False)
    with av.logging.Capture(local=False) as logs:  # nothing is printed: messages may contain the URL
        av.logging.set_level(av.logging.WARNING)
        try:
            suspects = 0
            for packet in packets:
                if any(LOSS in message for _, _, message in logs):
                    suspects = 2
                logs.clear()
                if suspects and packet.stream.type == "video":
                    packet.is_corrupt = True
                    suspects -= 1
                yield packet
        finally:
            av.logging.set_level(None)


def _split_url(text: str) -> SplitResult:
    """The parts of a camera's address. Raises CameraProblem if it is not one."""
    try:
        url = urlsplit(text)
        fine = url.scheme in DEFAULT_PORTS and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        fine = False
    if not fine:
        raise CameraProblem("camera-unsupported", "this is not a camera's address: give rtsp://, rtsps://, http(s)://")
    if url.username is not None or url.password is not None:
        raise CameraProblem("camera-unsupported", "give the user name and the password apart from the address")
    if any(char <= " " or char == "\x7f" for char in text):
        raise CameraProblem("camera-unsupported", "the address contains spaces or control characters: encode them")
    return url


def _name(url: SplitResult) -> str:
    """The camera's host and port, for messages."""
    return escape_controls(f"{url.hostname}:{_port(url)}")


def _port(url: SplitResult) -> int:
    return url.port or DEFAULT_PORTS[url.scheme]


def _find_addresses(url: SplitResult, plan: CameraPlan, ends_at: float) -> list[str]:
    """The camera's addresses that `ingest.camera_networks` allows. FFmpeg gets one of them, so no look-up differs."""
    host = url.hostname or ""
    found = _look_up(host, _port(url), ends_at)
    entries = [parse_private_host(entry) for entry in plan.networks]
    addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))
    allowed = [
        text
        for text in addresses
        if any(entry.covers(host, ipaddress.ip_address(text), _port(url)) for entry in entries)
    ]
    if not allowed:
        shown = escape_controls(host if host in addresses else f"{host} ({', '.join(addresses)})")
        raise CameraProblem(
            "camera-not-allowed",
            f"{shown} is not an allowed camera at port {_port(url)}: add it to ingest.camera_networks",
        )
    return allowed


def _look_up(host: str, port: int, ends_at: float) -> list[Any]:
    """Asks the system's resolver, which cannot be interrupted: if it hangs, its thread is left behind."""
    answer = Future[list[Any]]()

    def ask() -> None:
        try:
            answer.set_result(list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
        except (OSError, UnicodeError) as error:
            answer.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        return answer.result(max(ends_at - time.monotonic(), 0.1))
    except LookUpTimeout:
        reason = "the look-up took too long"
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    raise CameraProblem("camera-unknown-host", f"cannot find {escape_controls(host)} ({reason}): check the name")


def _connect(url: SplitResult, address: str, plan: CameraPlan, limit_s: float) -> InputContainer:
    """Opens the camera at this address. Raises CameraProblem."""
    before, began_at, problem = set(_list_connections()), time.monotonic(), None
    try:
        container = av.open(
            _spell_url(url, address, plan),
            format="rtsp" if url.scheme in RTSP else None,
            options=_choose_options(url, plan, limit_s),
            timeout=(limit_s, plan.silence_s),
        )
    except (av.FFmpegError, ValueError) as error:
        is_late = time.monotonic() - began_at > LATE_SHARE * limit_s  # FFmpeg then often says "invalid data"
        cause = TimeoutError() if is_late else error
        problem = _explain(cause, _name(url), f"did not answer within {limit_s:.0f} s")
        if url.scheme not in RTSP and getattr(cause, "errno", None) == errno.EIO:  # what max_redirects leads to
            problem = CameraProblem(
                "camera-unsupported", f"{_name(url)} redirects or breaks off: give the address that it redirects to"
            )
    if problem is not None:
        raise problem
    camera = address, _port(url)
    if any(camera not in ends for ends in set(_list_connections()) - before):
        container.close()
        raise CameraProblem(
            "camera-not-allowed", f"{_name(url)} redirects to another address: give that address instead"
        )
    return container


def _spell_url(url: SplitResult, address: str, plan: CameraPlan) -> str:
    login = ""
    if plan.username or plan.password:
        user, password = quote(plan.username, safe=SAFE_IN_LOGINS), quote(plan.password, safe=SAFE_IN_LOGINS + ":")
        login = f"{user}:{password}@"
        if ":" in plan.username:
            raise CameraProblem("camera-unsupported", "a user name cannot contain a colon")
        if url.scheme in RTSP and len(login) - 1 > MOST_RTSP_LOGIN_BYTES:
            raise CameraProblem("camera-unsupported", "the user name and the password are too long for RTSP")
    host = f"[{address}]" if ":" in address else address
    query = f"?{url.query}" if url.query else ""
    return f"{url.scheme}://{login}{host}:{_port(url)}{url.path}{query}"


def _choose_options(url: SplitResult, plan: CameraPlan, limit_s: float) -> dict[str, str]:
    options = {
        "format_whitelist": DEMUXERS[url.scheme],
        "protocol_whitelist": PROTOCOLS[url.scheme],
        "timeout": str(round(max(limit_s, plan.silence_s) * 1e6)),  # µs, of a connection's silence
        "fpsprobesize": "0",  # the rate is measured as packets arrive
        "probesize": str(PROBE_BYTES),
        "analyzeduration": str(PROBE_US),
        "max_pixels": str(CODED_BEYOND_SHOWN * plan.max_pixels),
    }
    if url.scheme in RTSP:
        return options | {"rtsp_transport": plan.transport, "allowed_media_types": "video+audio"}
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    name = f"{host}:{_port(url)}" if url.port else f"{host}"
    return options | {"max_redirects": "0", "headers": f"Host: {name}\r\n"}


def _choose_video(container: InputContainer, plan: CameraPlan) -> OpenCamera:
    video = next(iter(container.streams.video), None)
    name = _name(_split_url(plan.url))
    if video is None:
        raise CameraProblem("camera-no-video", f"{name} sends no video: choose another path")
    if video.codec_context is None or video.codec_context.name not in VIDEO_CODECS:
        codec = video.codec_context.name if video.codec_context is not None else "its codec"
        raise CameraProblem("camera-codec", f"{codec} is not supported: set the camera to H.264, H.265 or MJPEG")
    decoder = video.codec_context
    if decoder.width * decoder.height > plan.max_pixels:
        raise CameraProblem(
            "camera-codec",
            f"pictures of {decoder.width}x{decoder.height} are larger than {plan.max_pixels} pixels "
            "(ingest.max_frame_pixels): choose a smaller stream of the camera",
        )
    decoder.thread_count = 1  # threads wait for further frames, and cost memory
    decoder.options = {"max_pixels": str(CODED_BEYOND_SHOWN * plan.max_pixels)}
    return OpenCamera(container, video, container.format.name != "mpjpeg", len(container.streams))


HTTP_CODES: tuple[tuple[type[Exception], str, str], ...] = (
    (av.HTTPUnauthorizedError, "camera-unauthorized", "refuses the user name or the password: check both"),
    (av.HTTPForbiddenError, "camera-unauthorized", "forbids this user to watch: check the user's rights"),
    (av.HTTPNotFoundError, "camera-not-found", "has no such stream: check the path of the address"),
    (av.HTTPError, "camera-unsupported", "answers with an error: look at the camera itself"),
    (av.HTTPClientError, "camera-unsupported", "answers with an error: look at the camera itself"),
)
UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL)
BROKEN_OFF = (errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.EIO)


def _explain(error: Exception, name: str, late: str) -> CameraProblem:
    """What an error of FFmpeg means. `error` itself is not shown, because it contains the URL."""
    for kind, code, meaning in HTTP_CODES:
        if isinstance(error, kind):
            return CameraProblem(code, f"{name} {meaning}")
    number = getattr(error, "errno", None)
    reason = escape_controls(str(getattr(error, "strerror", None) or "unknown error"))
    meanings = (
        (number == errno.ECONNREFUSED, "camera-refused", "refuses the connection: check the port, and that it is on"),
        (
            isinstance(error, av.ExitError | TimeoutError) or number == errno.EAGAIN,
            "camera-timeout",
            f"{late}: check that it is on and can be reached",
        ),
        (number in UNREACHABLE, "camera-timeout", f"cannot be reached ({reason}): check the network"),
        (
            isinstance(error, av.EOFError) or number in BROKEN_OFF,
            "camera-ended",
            f"broke off ({reason}); it is tried again",
        ),
    )
    for applies, code, meaning in meanings:
        if applies:
            return CameraProblem(code, f"{name} {meaning}")
    return CameraProblem(
        "camera-unsupported", f"{name} sends neither RTSP nor live MPEG-TS or MJPEG that can be read ({reason})"
    )


def _list_connections() -> Iterator[tuple[Endpoint, Endpoint]]:
    """(own end, other end) of each TCP connection of this process."""
    for name in os.listdir("/dev/fd"):  # noqa: PTH208 - /dev/fd lists numbers, not files
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as copy:
                    if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
                        yield copy.getsockname()[:2], copy.getpeername()[:2]
