"""A real camera for tests, in this process, and everything that goes wrong with cameras."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Literal
from urllib.parse import quote

from demo.cameras.camera_server import CameraServer, CameraThread, running_cameras
from demo.cameras.clips import read_clip
from demo.cameras.digest import Accounts, Login, Scheme
from demo.cameras.faults import Faults


class Camera:
    """One device. Its time goes on through all faults: frame n is filmed n/fps after `started_at`, loop after loop."""

    def __init__(self, server: CameraServer, thread: CameraThread, user: str, password: str) -> None:
        self.server, self.faults = server, server.faults
        self.user, self.password = user, password
        self._thread = thread
        self._garbage = Random(2)

    @property
    def url(self) -> str:
        """Its RTSP address, without credentials."""
        return self.list_urls()[0]

    @property
    def login_url(self) -> str:
        """Its RTSP address, with percent-encoded credentials."""
        return self.add_login(self.url, self.user, self.password)

    def list_urls(self) -> list[str]:
        """The RTSP address of each file."""
        return [f"rtsp://{self.server.host}:{self.server.rtsp_port}/{name}" for name in self.server.sources]

    def http_url(self, kind: Literal["ts", "mjpeg"], name: str = "") -> str:
        """The HTTP address of a file, or of the first: MPEG-TS for H.264 and H.265, MJPEG for MJPEG."""
        folder = f"{name}/" if name else ""
        return f"http://{self.server.host}:{self.server.http_port}/{folder}live.{kind}"

    @staticmethod
    def add_login(url: str, user: str, password: str) -> str:
        """Puts percent-encoded credentials into an address."""
        scheme, rest = url.split("://")
        return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{rest}"

    @property
    def started_at(self) -> float:
        """`time.monotonic()` when the first frame was filmed."""
        return next(iter(self.server.sources.values())).started_at

    @property
    def clock_s(self) -> float:
        """What its clock shows now: the scale of its timestamps."""
        return next(iter(self.server.sources.values())).read_clock_s()

    @property
    def connections(self) -> int:
        """How many TCP connections there have been."""
        return self.server.connection_count

    @property
    def playing(self) -> int:
        """How many connections are open."""
        return len(self.server._connections)

    @property
    def logins(self) -> Sequence[Login]:
        """Every login that was tried, in order."""
        return self.server.accounts.logins

    def stall(self, *, keep: bool = False) -> None:
        """Sends no media from now on. With `keep` nothing is lost: `resume` sends it all, late."""
        self.faults.keeps_stalled, self.faults.is_stalled = keep, True

    def resume(self) -> None:
        """Ends a stall. Unless the stall kept everything, the next picture is a key picture."""
        self.faults.is_stalled = False

    def fall_silent(self) -> None:
        """New connections are accepted and get no answer."""
        self.faults.is_silent = True

    def mute_after_handshake(self) -> None:
        """PLAY is answered, and nothing follows. The same as a stall from the beginning."""
        self.stall()

    def join_anywhere(self) -> None:
        """New clients begin at any frame. A decoder then waits for the next key frame, or shows damaged ones."""
        self.faults.joins_anywhere = True

    def recover(self) -> None:
        """Ends every fault that lasts, except death. The clock stays where it jumped."""
        self.faults.is_silent = self.faults.is_stalled = self.faults.has_no_timestamps = False
        self.faults.corrupt_share = self.faults.lost_share = 0.0

    def die(self) -> None:
        """Drops all connections and the ports, as a killed server does."""
        self._thread.run(self.server.die())

    def restart(self) -> None:
        """Answers on the same ports again."""
        self._thread.run(self.server.open())

    def end_cleanly(self) -> None:
        """Says goodbye (RTCP BYE) and closes all connections. New ones are welcome."""
        self._thread.call(self.server.end_cleanly)

    def switch(self, file: Path) -> None:
        """Goes on with another file, on the same connections: other pictures, size or codec."""
        clip, source = read_clip(file), next(iter(self.server.sources.values()))
        self._thread.call(lambda: source.switch(clip))

    def jump(self, seconds: float) -> None:
        """Its clock is set, so that the timestamps jump. They have 32 bits: more than 6.6 hours look like fewer."""
        self.faults.clock_jump_s += seconds

    def drop_timestamps(self) -> None:
        """Its RTP packets have no timestamp from now on."""
        self.faults.has_no_timestamps = True

    def corrupt(self, share: float) -> None:
        """Damages the payload of this share of all packets from now on."""
        self.faults.corrupt_share = share

    def lose(self, share: float) -> None:
        """Loses this share of all packets from now on."""
        self.faults.lost_share = share

    def send_garbage(self, size: int = 5000) -> None:
        """Sends random bytes to all clients once, where a packet would begin."""
        data = self._garbage.randbytes(size)
        self._thread.call(lambda: self.server.send_garbage(data))


@contextmanager
def camera(
    *files: Path, user: str = "", password: str = "", schemes: tuple[Scheme, ...] = ("digest",)
) -> Iterator[Camera]:
    """Runs a camera that plays a file (or more, each with its URL). With a user it asks for the password."""
    clips = {file.stem: read_clip(file) for file in files}
    accounts = Accounts({user: password} if user else {}, schemes)
    server = CameraServer(clips, accounts=accounts, faults=Faults())
    with running_cameras(server) as thread:
        yield Camera(server, thread, user, password)
