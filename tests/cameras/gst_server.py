"""Runs Debian's gst-rtsp-server as a camera: a real server that others wrote."""

import json
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from demo.cameras.camera_server import reserve_port
from demo.cameras.clips import VIDEO, read_clip

PYTHON = "/usr/bin/python3"  # Debian's, which has PyGObject
INSTALL = (
    "apt-get install --no-install-recommends gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base"
    " gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly gstreamer1.0-rtsp python3-gi"
)
TEST_PICTURE = (
    "( videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=15/1"
    " ! x264enc tune=zerolatency key-int-max=15 ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
PIPELINES = {  # the files have their parameter sets before each key picture, so the payloaders add none
    "h264": "video/x-h264,stream-format=byte-stream,alignment=au ! h264parse ! rtph264pay",
    "hevc": "video/x-h265,stream-format=byte-stream,alignment=au ! h265parse ! rtph265pay",
    "mjpeg": "image/jpeg ! jpegparse ! rtpjpegpay",
}


@cache
def is_installed() -> bool:
    """Whether the server can run here. If not, INSTALL is the command that installs it."""
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not Path(PYTHON).exists():
        return False
    return subprocess.run([PYTHON, "-c", code], capture_output=True, check=False).returncode == 0


class GstServer:
    """One camera at one port, which it keeps when it is killed and restarted."""

    def __init__(self, orders: dict[str, object]) -> None:
        self._reserved = reserve_port("127.0.0.1", 0)
        self.port: int = self._reserved.getsockname()[1]
        self._orders = orders
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """Its RTSP address, without credentials."""
        return f"rtsp://127.0.0.1:{self.port}/camera"

    @property
    def login_url(self) -> str:
        """Its RTSP address, with percent-encoded credentials."""
        user, password = (quote(str(self._orders[key]), safe="") for key in ("user", "password"))
        return f"rtsp://{user}:{password}@127.0.0.1:{self.port}/camera"

    def start(self) -> None:
        """Returns when it listens."""
        script = Path(__file__).with_name("gst_script.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([PYTHON, str(script)], text=True, **pipes)  # type: ignore[call-overload]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._orders | {"port": self.port}) + "\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        """Kills the process."""
        if self._process is None:
            return
        self._process.kill()
        self._process.communicate()

    def close(self) -> None:
        """Kills the process and gives its port back."""
        self.kill()
        self._reserved.close()


@contextmanager
def gst_server(
    folder: Path,
    file: Path | None = None,
    *,
    user: str = "",
    password: str = "",
    scheme: Literal["basic", "digest"] = "digest",
) -> Iterator[GstServer]:
    """Runs a camera that plays a file's pictures in a loop, or else a test picture. `folder` is for its own files."""
    orders: dict[str, object] = {"user": user, "password": password, "scheme": scheme}
    if file is None:
        orders |= {"pipeline": TEST_PICTURE, "units": ""}
    else:
        clip, units = read_clip(file), folder / f"{file.name}.units"
        pictures = [unit for unit in clip.units if unit.track == VIDEO]
        heads = [struct.pack(">ddI", unit.shown_s, unit.decoded_s, len(unit.data)) for unit in pictures]
        units.write_bytes(b"".join(head + unit.data for head, unit in zip(heads, pictures, strict=True)))
        source, _, rest = PIPELINES[clip.tracks[VIDEO].codec].partition(" ! ")
        pipeline = f"( appsrc name=source is-live=true format=time caps={source} ! {rest} name=pay0 )"
        orders |= {"pipeline": pipeline, "units": str(units), "delay_s": clip.delay_s, "duration_s": clip.duration_s}
    server = GstServer(orders)
    try:
        server.start()
        yield server
    finally:
        server.close()
