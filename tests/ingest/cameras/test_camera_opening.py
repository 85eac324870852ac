"""Each thing that can be wrong with a camera has its own code; credentials of any characters work and never show."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ingest.cameras.camera_messages import CameraPlan
from ingest.cameras.camera_opening import CameraProblem, open_camera, read_packets
from tests.cameras.camera import camera
from tests.cameras.camera_files import write_camera_file
from tests.ingest.conftest import resolve_to

USER, PASSWORD = "ad min@cam", 'p@ss:w/ö?#%&"+ [é]'


def plan(url: str, **values: Any) -> CameraPlan:
    base: dict[str, Any] = {
        "username": "", "password": "", "transport": "tcp", "networks": ("127.0.0.0/8",), "start_epoch_s": 0.0,
        "sample_fps": 1.0, "mode": "exact", "first_slot": 0, "spool_folder": "", "connect_timeout_s": 3.0,
        "silence_s": 3.0,
    }  # fmt: skip
    return CameraPlan(url=url, **(base | values))


def read_some(wanted: CameraPlan, count: int = 3) -> str:
    """Opens a camera and reads some packets; returns the codec."""
    with open_camera(wanted) as opened:
        packets = read_packets(opened, [opened.video], wanted)
        for _ in range(count):
            next(packets)
        return opened.video.codec_context.name


def problem(wanted: CameraPlan) -> CameraProblem:
    with pytest.raises(CameraProblem) as caught:
        read_some(wanted, 1000)
    error: BaseException | None = caught.value
    while error is not None:
        assert "p@ss" not in repr(error) + str(error)
        assert "p%40ss" not in repr(error) + str(error)
        assert "wrong" not in str(error)
        error = error.__context__
    return caught.value


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_camera_file(tmp_path_factory.mktemp("files") / "yard.mp4")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A server that gives every request this answer; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    with listener.accept()[0] as client:
                        while client.recv(65536):
                            client.sendall(answer)
            except OSError:
                pass

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("codec", ["h264", "hevc", "mjpeg"])
def test_rtsp_is_opened(codec: Any, transport: str, tmp_path: Path) -> None:
    with camera(write_camera_file(tmp_path / "yard.mkv", codec=codec)) as server:
        assert read_some(plan(server.url, transport=transport)) == codec


@pytest.mark.parametrize(("codec", "kind"), [("h264", "ts"), ("hevc", "ts"), ("mjpeg", "mjpeg")])
def test_http_is_opened(codec: Any, kind: Any, tmp_path: Path) -> None:
    with camera(write_camera_file(tmp_path / "yard.mkv", codec=codec)) as server:
        assert read_some(plan(server.http_url(kind))) == codec


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_credentials_of_any_characters_work(scheme: Any, file: Path) -> None:
    with camera(file, user=USER, password=PASSWORD, schemes=(scheme,)) as server:
        for url in (server.url, server.http_url("ts")):
            assert read_some(plan(url, username=USER, password=PASSWORD)) == "h264"


@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_wrong_credentials_are_told(scheme: Any, file: Path) -> None:
    with camera(file, user=USER, password=PASSWORD, schemes=(scheme,)) as server:
        for url in (server.url, server.http_url("ts")):
            assert problem(plan(url)).code == "camera-unauthorized"
            assert problem(plan(url, username=USER, password="wrong")).code == "camera-unauthorized"


def test_credentials_that_rtsp_cannot_carry_are_told(file: Path) -> None:
    with camera(file, user=USER, password=PASSWORD) as server:
        assert problem(plan(server.url, username="a:b", password="x")).code == "camera-unsupported"
        assert problem(plan(server.url, username="a", password="x" * 130)).code == "camera-unsupported"


def test_a_wrong_path_is_told(file: Path) -> None:
    with camera(file) as server:
        assert problem(plan(server.url + "er")).code == "camera-not-found"
        assert problem(plan(server.http_url("ts") + "er")).code == "camera-not-found"


def test_a_dead_port_is_told(unused_port: int) -> None:
    for scheme in ("rtsp", "rtsps", "http"):
        assert problem(plan(f"{scheme}://127.0.0.1:{unused_port}/x")).code == "camera-refused"


@pytest.mark.parametrize("fault", ["fall_silent", "mute_after_handshake"])
def test_a_camera_that_says_nothing_is_told(fault: str, file: Path) -> None:
    with camera(file) as server:
        getattr(server, fault)()
        found = problem(plan(server.url, connect_timeout_s=1.0, silence_s=1.0))
    assert found.code == "camera-timeout"


def test_the_end_of_a_stream_is_told(file: Path) -> None:
    with camera(file) as server, open_camera(wanted := plan(server.url)) as opened:
        packets = read_packets(opened, [opened.video], wanted)
        next(packets)
        server.end_cleanly()
        with pytest.raises(CameraProblem) as caught:
            for _ in packets:
                pass
    assert caught.value.code == "camera-ended"


def test_a_camera_that_dies_is_told(file: Path) -> None:
    with camera(file) as server, open_camera(wanted := plan(server.url)) as opened:
        packets = read_packets(opened, [opened.video], wanted)
        next(packets)
        server.die()
        with pytest.raises(CameraProblem) as caught:
            for _ in packets:
                pass
    assert caught.value.code == "camera-ended"


def test_an_unknown_host_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, [])
    assert problem(plan("rtsp://video.example/x")).code == "camera-unknown-host"


@pytest.mark.parametrize("networks", [(), ("10.0.0.0/8",), ("127.0.0.0/8:1",), ("other.example",)])
def test_only_listed_networks_are_reached(networks: tuple[str, ...], file: Path) -> None:
    with camera(file) as server:
        assert problem(plan(server.url, networks=networks)).code == "camera-not-allowed"
        assert server.connections == 0


def test_a_name_is_looked_up_once_and_its_allowed_address_is_used(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolve_to(monkeypatch, ["10.9.9.9", "127.0.0.1"], ["10.9.9.9"])
    with camera(file) as server:
        url = server.url.replace("127.0.0.1", "video.example")
        assert read_some(plan(url)) == "h264"
    assert asked == ["video.example"]


def test_the_next_address_is_tried_if_one_refuses(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.9", "127.0.0.1"])
    with camera(file) as server:
        assert read_some(plan(server.url.replace("127.0.0.1", "video.example"))) == "h264"


def test_a_redirect_of_http_is_not_followed(file: Path) -> None:
    with camera(file) as server:
        target = server.http_url("ts").encode()
        with answering(b"HTTP/1.1 302 Found\r\nLocation: " + target + b"\r\nContent-Length: 0\r\n\r\n") as port:
            assert problem(plan(f"http://127.0.0.1:{port}/x")).code in ("camera-not-allowed", "camera-unsupported")
        assert server.connections == 0


def test_a_redirect_of_rtsp_to_another_camera_shows_nothing_of_it(file: Path) -> None:
    """FFmpeg follows it before it can be noticed, but no packet is read."""
    with camera(file) as server:
        answer = b"RTSP/1.0 302 Found\r\nCSeq: 1\r\nLocation: " + server.url.encode() + b"\r\n\r\n"
        with answering(answer) as port:
            assert problem(plan(f"rtsp://127.0.0.1:{port}/x")).code in ("camera-not-allowed", "camera-unsupported")


@pytest.mark.parametrize(
    "content",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 9 RTP/AVP 96\r\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<html>not a camera</html>",
    ],
)
def test_neither_playlists_nor_pages_are_cameras(content: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    with answering(head + content) as port:
        assert problem(plan(f"http://127.0.0.1:{port}/live.m3u8")).code == "camera-unsupported"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "udp://127.0.0.1:1", "rtmp://127.0.0.1/x", "rtsp:///x", "rtsp://127.0.0.1:0/x", "yard",
        "rtsp://127.0.0.1:99999/x", "rtsp://u:p@ss@127.0.0.1/x", "rtsp://127.0.0.1/a b",
        "rtsp://127.0.0.1/a\r\nTeardown: 1",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(url: str) -> None:
    assert problem(plan(url)).code == "camera-unsupported"


def test_pictures_that_are_too_large_are_told(file: Path) -> None:
    with camera(file) as server:
        found = problem(plan(server.url, max_pixels=160 * 120 - 1))
    assert found.code == "camera-codec"


def test_every_message_says_what_to_do(file: Path) -> None:
    source = Path(__file__).parents[3] / "ingest" / "cameras" / "camera_opening.py"
    codes = set(re.findall(r'"(camera-[a-z-]+)"', source.read_text()))
    assert codes == {
        "camera-unauthorized", "camera-unknown-host", "camera-refused", "camera-timeout", "camera-no-video",
        "camera-codec", "camera-not-allowed", "camera-not-found", "camera-ended", "camera-unsupported",
    }  # fmt: skip


def test_a_camera_with_sound_only_is_told() -> None:
    sdp = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=audio 0 RTP/AVP 0\r\na=control:a\r\n"
    answer = (
        b"RTSP/1.0 200 OK\r\nCSeq: %d\r\nPublic: DESCRIBE, SETUP, PLAY\r\nSession: 1\r\n"
        b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with listener.accept()[0] as client, suppress(OSError):
                for number in range(1, 20):
                    request = client.recv(65536)
                    if not request:
                        return
                    body = sdp if request.startswith(b"DESCRIBE") else b""
                    head = answer % number + b"Content-Type: application/sdp\r\nContent-Length: %d\r\n\r\n" % len(body)
                    client.sendall(head + body)
                    if request.startswith(b"PLAY"):
                        packet = b"\x80\x00\x00\x01" + bytes(8) + bytes(160)
                        for _ in range(50):
                            client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)

        threading.Thread(target=serve, daemon=True).start()
        found = problem(plan(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x"))
    assert found.code == "camera-no-video"
