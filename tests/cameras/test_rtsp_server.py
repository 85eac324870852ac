"""Our cameras play files like live cameras do, to PyAV, and fail like cameras do when a test asks for it."""

import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import av
import pytest
from av.video.stream import VideoStream

from demo.cameras.clips import VIDEO, read_clip
from demo.cameras.digest import Scheme
from demo.cameras.rtp import split_nals
from tests.cameras.camera import Camera, camera
from tests.cameras.camera_files import write_camera_file
from tests.cameras.watching import OPTIONS, Seen, watching
from tests.waiting import wait_until

FRAMES, FPS, GOP = 20, 30, 5
SECONDS = FRAMES / FPS
KINDS = ("plain", "b-frames", "hevc", "hevc-b-frames", "mjpeg", "sound")
USER, PASSWORD = "Jürgen@home/?", 'p@ss:w/ö?&%#"\\ x'


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Films of 20 numbered frames with a key frame at each fifth."""
    folder = tmp_path_factory.mktemp("films")
    return {
        "plain": write_camera_file(folder / "plain.mp4", SECONDS, fps=FPS, gop=GOP),
        "b-frames": write_camera_file(folder / "b-frames.mp4", SECONDS, fps=FPS, gop=GOP, b_frames=2),
        "hevc": write_camera_file(folder / "hevc.mp4", SECONDS, fps=FPS, codec="hevc", gop=GOP),
        "hevc-b-frames": write_camera_file(
            folder / "hevc-b-frames.mkv", SECONDS, fps=FPS, codec="hevc", gop=10, b_frames=3
        ),
        "mjpeg": write_camera_file(folder / "mjpeg.mkv", SECONDS, fps=FPS, codec="mjpeg"),
        "sound": write_camera_file(folder / "sound.mp4", SECONDS, fps=FPS, gop=GOP, b_frames=2, sound=True),
        "large": write_camera_file(folder / "large.mp4", SECONDS, fps=FPS, gop=GOP, size=(320, 240)),
    }


def take(frames: Iterator[Seen], count: int) -> list[Seen]:
    return list(islice(frames, count))


def take_until(frames: Iterator[Seen], is_there: Callable[[Seen, Seen], bool]) -> list[Seen]:
    """Takes frames until the last two are as wanted. PyAV holds those that it read while it opened the camera."""
    seen = take(frames, 2)
    while not is_there(*seen[-2:]):
        assert len(seen) < 200
        seen.append(next(frames))
    return seen


def skips(early: Seen, late: Seen) -> float:
    """The time between two frames."""
    assert early.time_s is not None
    assert late.time_s is not None
    return late.time_s - early.time_s


def is_in_order(seen: list[Seen]) -> bool:
    return all((late.number - early.number) % FRAMES == 1 for early, late in pairwise(seen))


@dataclass(frozen=True)
class Play:
    seen: list[Seen]
    sound_times_s: list[float]


def play(url: str, transport: str) -> Play:
    """What a client sees and hears in one loop and a half."""
    options = OPTIONS | {"timeout": "5000000"} | ({"rtsp_transport": transport} if transport in {"tcp", "udp"} else {})
    seen: list[Seen] = []
    sound_times_s: list[float] = []
    with av.open(url, options=options) as container:
        for packet in container.demux(list(container.streams)):
            for frame in packet.decode():
                if isinstance(frame, av.VideoFrame):
                    seen.append(Seen.read(frame))
                elif isinstance(frame, av.AudioFrame) and frame.time is not None:
                    sound_times_s.append(frame.time)
            if len(seen) >= FRAMES * 3 // 2:
                break
    return Play(seen, sound_times_s)


@pytest.fixture(scope="module")
def plays(films: Mapping[str, Path]) -> Iterator[dict[tuple[str, str], Future[Play]]]:
    """Each kind of film by each transport, all at the same time."""
    with camera(*(films[kind] for kind in KINDS)) as cam, ThreadPoolExecutor(3 * len(KINDS)) as pool:
        urls = {(kind, way): url for kind, url in zip(KINDS, cam.list_urls(), strict=True) for way in ("tcp", "udp")}
        urls |= {(kind, "http"): cam.http_url("mjpeg" if kind == "mjpeg" else "ts", kind) for kind in KINDS}
        yield {(kind, way): pool.submit(play, url, way) for (kind, way), url in urls.items()}


@pytest.mark.parametrize("transport", ["tcp", "udp", "http"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_come_in_order_across_the_loop(
    plays: dict[tuple[str, str], Future[Play]], kind: str, transport: str
) -> None:
    seen = plays[kind, transport].result().seen
    assert is_in_order(seen)
    times = [frame.time_s for frame in seen if frame.time_s is not None]
    steps = {round(late - early, 2) for early, late in pairwise(times)}
    # MJPEG over HTTP has no timestamps: FFmpeg invents 25 frames a second.
    assert steps <= ({0.04} if (kind, transport) == ("mjpeg", "http") else {0.03})
    assert len(times) >= len(seen) - 1  # FFmpeg leaves the first one open


@pytest.mark.parametrize("transport", ["tcp", "udp", "http"])
def test_sound_comes_along(plays: dict[tuple[str, str], Future[Play]], transport: str) -> None:
    times = plays["sound", transport].result().sound_times_s
    assert len(times) > SECONDS * 16_000 / 1024
    assert times == sorted(set(times))


def shoot(path: Path, encoder: str, options: dict[str, str], frames: int = 15) -> Path:
    """A detailed film, whose pictures need many packets."""
    safari = Path(__file__).parent.parent.parent / "demo" / "safari.mp4"
    with av.open(str(safari)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream(encoder, rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        for number, frame in enumerate(islice(source.decode(video=0), frames)):
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            frame.pict_type = av.video.frame.PictureType.NONE
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("libx264", {"g": "5", "crf": "20", "preset": "veryfast"}),
        ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:keyint=5:crf=20"}),
    ],
)
def test_large_pictures_arrive_byte_for_byte(
    tmp_path: Path, encoder: str, options: dict[str, str], transport: str
) -> None:
    file = shoot(tmp_path / "film.mkv", encoder, options)
    pictures = [unit.data for unit in read_clip(file).units if unit.track == VIDEO]
    assert max(map(len, pictures)) > 20_000
    with (
        camera(file) as cam,
        av.open(cam.url, options=OPTIONS | {"rtsp_transport": transport, "timeout": "5000000"}) as container,
    ):
        packets = [bytes(packet) for packet in islice(container.demux(video=0), 20)]
    arrived = [nal for packet in packets for nal in split_nals(packet)]
    sent = [nal for picture in pictures * 4 for nal in split_nals(picture)]
    begin = next(at for at in range(len(sent)) if sent[at : at + 20] == arrived[:20])
    assert arrived == sent[begin : begin + len(arrived)]


def test_large_jpegs_arrive_as_the_same_pictures(tmp_path: Path) -> None:
    file = shoot(tmp_path / "film.mkv", "mjpeg", {"huffman": "default", "qmin": "2", "qmax": "3"}, frames=5)
    with av.open(str(file)) as container:
        pictures = [frame.to_ndarray(format="rgb24").tobytes() for frame in container.decode(video=0)]
    with camera(file) as cam, av.open(cam.url, options=OPTIONS | {"rtsp_transport": "tcp"}) as container:
        arrived = [frame.to_ndarray(format="rgb24").tobytes() for frame in islice(container.decode(video=0), 8)]
    begin = pictures.index(arrived[0])
    assert arrived == (pictures * 3)[begin : begin + 8]


@pytest.mark.parametrize(
    "schemes", [("basic",), ("digest",), ("basic", "digest"), ("digest-sha-256", "digest")], ids="+".join
)
def test_the_right_password_opens_a_camera(films: Mapping[str, Path], schemes: tuple[Scheme, ...]) -> None:
    with camera(films["plain"], user=USER, password=PASSWORD, schemes=schemes) as cam:
        for url in (cam.login_url, cam.add_login(cam.http_url("ts"), USER, PASSWORD)):
            with watching(url) as frames:
                assert is_in_order(take(frames, 3))
        assert {login.user for login in cam.logins} == {USER}
        assert all(login.accepted for login in cam.logins)
        assert {login.password for login in cam.logins} == {PASSWORD if schemes == ("basic",) else None}


@pytest.mark.parametrize("scheme", ["basic", "digest", "digest-sha-256"])
def test_a_wrong_or_missing_password_is_401(films: Mapping[str, Path], scheme: Scheme) -> None:
    with camera(films["plain"], user=USER, password=PASSWORD, schemes=(scheme,)) as cam:
        for url in (cam.url, cam.http_url("ts")):
            for opened in (url, cam.add_login(url, USER, "wrong"), cam.add_login(url, "wrong", PASSWORD)):
                with pytest.raises(av.HTTPUnauthorizedError), watching(opened):
                    pass
        assert not any(login.accepted for login in cam.logins)


def test_ffmpeg_does_not_know_sha_256(films: Mapping[str, Path]) -> None:
    """When FFmpeg learns it, this fails, and the cameras' schemes can be simpler."""
    with camera(films["plain"], user=USER, password=PASSWORD, schemes=("digest-sha-256",)) as cam:
        with pytest.raises(av.HTTPUnauthorizedError), watching(cam.login_url):
            pass
        assert cam.logins == []


def test_clients_begin_at_a_key_frame_or_anywhere(films: Mapping[str, Path]) -> None:
    def begins_at_key_frame() -> bool:
        with Client(cam) as client:
            client.play()
            while True:
                head = client.receive(4)
                packet = client.receive(int.from_bytes(head[2:], "big"))
                if head[1] == 0:  # media, not RTCP
                    return packet[12] & 0x1F != 1  # H.264's number for a slice of any other frame

    with camera(films["plain"]) as cam:
        assert begins_at_key_frame()
        cam.join_anywhere()
        wait_until(lambda: not begins_at_key_frame(), step_s=0.01)


def test_two_clients_watch_at_once(films: Mapping[str, Path]) -> None:
    with camera(films["b-frames"]) as cam, watching(cam.url) as one, watching(cam.url, "udp") as other:
        pairs = list(islice(zip(one, other, strict=False), FRAMES))
        assert is_in_order([first for first, _ in pairs])
        assert is_in_order([second for _, second in pairs])
        assert cam.connections == 2


def test_a_stall_ends_in_a_timeout(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam, watching(cam.url, timeout_s=0.5) as frames:
        take(frames, 3)
        cam.stall()
        with pytest.raises(av.error.TimeoutError):
            take(frames, 100)


@pytest.mark.parametrize("transport", ["tcp", "udp", "http"])
def test_a_short_stall_loses_frames_and_begins_again_at_a_key_frame(films: Mapping[str, Path], transport: str) -> None:
    with camera(films["plain"]) as cam, watching(pick_url(cam, transport), transport) as frames:
        take(frames, 3)
        stall_for(cam, keep=False)
        seen = take_until(frames, lambda early, late: skips(early, late) > 0.1)
        assert is_in_order(seen[:-1])
        assert seen[-1].number % GOP == 0


def stall_for(cam: Camera, *, keep: bool, seconds: float = 0.5) -> None:
    """Stalls for a part of the camera's time."""
    cam.stall(keep=keep)
    until_s = cam.clock_s + seconds
    wait_until(lambda: cam.clock_s > until_s)
    cam.resume()


def pick_url(cam: Camera, transport: str) -> str:
    return cam.http_url("ts") if transport == "http" else cam.url


def test_a_stall_that_keeps_everything_loses_nothing(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam, watching(cam.url) as frames:
        seen = take(frames, 3)
        stall_for(cam, keep=True)
        assert is_in_order(seen + take(frames, 15))


def test_a_dead_camera_ends_its_streams_and_comes_back_on_its_port(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam:
        url, started_at = cam.url, cam.started_at
        with watching(url) as frames:
            take(frames, 3)
            cam.die()
            assert is_in_order(list(frames))  # a clean end
        with pytest.raises(av.ConnectionRefusedError), watching(url):
            pass
        cam.restart()
        with watching(url) as frames:
            take(frames, 3)
        assert (cam.url, cam.started_at) == (url, started_at)  # and the world went on meanwhile


def test_a_stream_that_ends_cleanly_can_be_opened_again(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam:
        with watching(cam.url) as frames:
            take(frames, 3)
            cam.end_cleanly()
            assert is_in_order(list(frames))
        with watching(cam.url) as frames:
            take(frames, 3)
        assert cam.connections == 2


@pytest.mark.parametrize("transport", ["tcp", "http"])
def test_the_size_changes_on_an_open_connection(films: Mapping[str, Path], transport: str) -> None:
    with camera(films["plain"]) as cam, watching(pick_url(cam, transport), transport) as frames:
        assert {frame.size for frame in take(frames, 3)} == {(160, 120)}
        cam.switch(films["large"])
        seen = take_until(frames, lambda _, late: late.size == (320, 240)) + take(frames, 5)
        assert [frame.number for frame in seen if frame.size == (320, 240)] == [0, 1, 2, 3, 4, 5]
        assert cam.connections == 1


def test_the_codec_changes_on_an_open_connection(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam:
        with watching(cam.url) as frames:
            take(frames, 3)
            cam.switch(films["hevc"])
            with pytest.raises(av.error.InvalidDataError):
                take(frames, 100)
        with watching(cam.url) as frames:
            assert is_in_order(take(frames, FRAMES))


@pytest.mark.parametrize("kind", ["plain", "sound"])
@pytest.mark.parametrize("hours", [5, -5])
def test_timestamps_jump_and_frames_stay_in_order(films: Mapping[str, Path], kind: str, hours: int) -> None:
    with camera(films[kind]) as cam, watching(cam.url) as frames:
        take(frames, 3)
        cam.jump(hours * 3600)
        seen = take_until(frames, lambda early, late: abs(skips(early, late)) > 1)
        assert round(skips(*seen[-2:]) / 3600, 3) == hours
        assert is_in_order(seen + take(frames, 5))


def test_timestamps_can_be_missing(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam, watching(cam.url) as frames:
        take(frames, 3)
        cam.drop_timestamps()
        seen = take_until(frames, lambda _, late: late.time_s is None) + take(frames, 5)
        assert is_in_order(seen)
        assert {frame.time_s for frame in seen[-5:]} == {None}


def test_a_camera_that_says_nothing_times_out(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam:
        cam.fall_silent()
        for url in (cam.url, cam.http_url("ts")):
            with pytest.raises((av.error.TimeoutError, av.error.InvalidDataError)), watching(url, timeout_s=0.5):
                pass
        cam.recover()
        cam.mute_after_handshake()
        with watching(cam.url, timeout_s=0.5) as frames, pytest.raises(av.error.TimeoutError):
            next(frames)
        assert cam.connections == 3


def test_garbage_reaches_its_clients_and_harms_no_others(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam:
        with Client(cam) as client:
            client.play()
            cam.send_garbage(5000)
            received = b""
            while len(received) < 6_000 and (more := client.socket.recv(65_536)):
                received += more
            at, heads = 0, set()
            while at + 4 < len(received):
                heads.add(received[at])
                at += 4 + struct.unpack(">H", received[at + 2 : at + 4])[0]
            assert heads != {ord("$")}  # the packets no longer follow each other
        with watching(cam.url, "udp") as frames:
            cam.send_garbage()
            assert is_in_order(take(frames, 10))


def test_damaged_and_lost_packets_damage_frames_and_end_nothing(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam, watching(cam.url, skip_damaged=True) as frames:
        take(frames, 3)
        cam.corrupt(0.5)
        cam.lose(0.2)
        take_until(frames, lambda early, late: not is_in_order([early, late]))
        cam.recover()
        take(frames, FRAMES)
        assert is_in_order(take(frames, FRAMES))
        assert cam.connections == 1


class Client:
    """Says what a test wants to a camera's RTSP port."""

    def __init__(self, cam: Camera) -> None:
        self.url = cam.url
        self.socket = socket.create_connection((cam.server.host, cam.server.rtsp_port), timeout=10)
        self.session = ""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def receive(self, size: int) -> bytes:
        """Exactly so many bytes."""
        received = b""
        while len(received) < size:
            more = self.socket.recv(size - len(received))
            assert more, "the camera closed the connection"
            received += more
        return received

    def ask(self, method: str, path: str = "", **headers: str) -> tuple[int, str]:
        """(status, everything else) of the answer to a request."""
        if self.session:
            headers["Session"] = self.session
        lines = [f"{method} {self.url}{path} RTSP/1.0", "CSeq: 7", *(f"{n}: {v}" for n, v in headers.items())]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self.receive(1)
        text = answer.decode()
        assert "CSeq: 7\r\n" in text
        return int(text.split(" ")[1]), text

    def play(self) -> None:
        status, text = self.ask("SETUP", "/trackID=0", Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        assert status == 200
        self.session = text.partition("Session: ")[2].partition(";")[0]
        assert self.ask("PLAY")[0] == 200


def test_what_cannot_be_done_is_refused(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam:
        with Client(cam) as client:
            assert "DESCRIBE, SETUP, PLAY" in client.ask("OPTIONS")[1]
            assert client.ask("DESCRIBE", "/other")[0] == 404
            assert client.ask("PLAY")[0] == 454
            assert client.ask("RECORD")[0] == 501
            assert client.ask("SETUP", "/trackID=1", Transport="RTP/AVP/TCP;interleaved=0-1")[0] == 404
            assert client.ask("SETUP", "/trackID=0", Transport="RTP/AVP;multicast")[0] == 461
            assert client.ask("GET_PARAMETER")[0] == 200
        with Client(cam) as client:
            client.socket.sendall(b"nonsense\r\n\r\n")
            assert client.socket.recv(1000).startswith(b"RTSP/1.0 400")
        for file, status in (("live.mjpeg", 415), ("live.avi", 404), ("other/live.ts", 404)):
            with pytest.raises(HTTPError) as refused:
                urlopen(cam.http_url("ts").replace("live.ts", file), timeout=10)
            with refused.value as response:
                assert response.code == status


def test_a_teardown_ends_the_connection(films: Mapping[str, Path]) -> None:
    with camera(films["plain"]) as cam, Client(cam) as client:
        client.play()
        client.socket.sendall(f"TEARDOWN {cam.url} RTSP/1.0\r\nCSeq: 9\r\nSession: {client.session}\r\n\r\n".encode())
        received = b""
        while more := client.socket.recv(65_536):
            received += more
        assert b"RTSP/1.0 200 OK\r\nCSeq: 9" in received


def test_the_program_serves_a_file(films: Mapping[str, Path]) -> None:
    command = [sys.executable, "-m", "demo.cameras", str(films["mjpeg"]), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        urls = [program.stdout.readline().strip() for _ in range(2)]
        for url in urls:
            with watching(url) as frames:
                assert is_in_order(take(frames, 3))
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=20) in {0, 130}
