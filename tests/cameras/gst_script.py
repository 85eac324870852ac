"""Runs gst-rtsp-server. Debian's own Python runs this file, because PyGObject is not a pip package.

It reads its orders as one line of JSON from stdin, says when it is ready, and ends when stdin is closed.
"""

import importlib
import json
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

gi = importlib.import_module("gi")
gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
GLib = importlib.import_module("gi.repository.GLib")
Gst = importlib.import_module("gi.repository.Gst")
GstRtsp = importlib.import_module("gi.repository.GstRtsp")
GstRtspServer = importlib.import_module("gi.repository.GstRtspServer")

HEADER = struct.Struct(">ddI")  # shown_s, decoded_s, size of the data that follows


def read_units(path: Path) -> list[tuple[float, float, bytes]]:
    """The coded pictures that tests/cameras/gst_server.py wrote."""
    data, at, units = path.read_bytes(), 0, []
    while at < len(data):
        shown_s, decoded_s, size = HEADER.unpack_from(data, at)
        at += HEADER.size + size
        units.append((shown_s, decoded_s, data[at - size : at]))
    return units


def feed(source: Any, orders: dict[str, Any]) -> None:
    """Pushes the pictures in real time, again and again, until the pipeline is gone."""
    units = read_units(Path(orders["units"]))
    while not Gst.CLOCK_TIME_NONE > source.get_current_running_time() > 0:
        time.sleep(0.01)
    start_s = source.get_current_running_time() / Gst.SECOND
    while True:
        for shown_s, decoded_s, data in units:
            due_s = start_s + decoded_s + orders["delay_s"]
            time.sleep(max(0.0, due_s - source.get_current_running_time() / Gst.SECOND))
            buffer = Gst.Buffer.new_wrapped(data)
            buffer.pts = round((start_s + shown_s) * Gst.SECOND)
            buffer.dts = round(max(0.0, start_s + decoded_s) * Gst.SECOND)
            if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
                return
        start_s += orders["duration_s"]


def configure(factory: Any, media: Any, orders: dict[str, Any]) -> None:
    """Starts to feed the pipeline that the first client made."""
    source = media.get_element().get_child_by_name("source")
    if orders["units"]:
        threading.Thread(target=feed, args=(source, orders), daemon=True).start()


def protect(server: Any, factory: Any, orders: dict[str, Any]) -> None:
    """Lets only one user in."""
    auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if orders["scheme"] == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(orders["user"], orders["password"], token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(orders["user"], orders["password"]), token)
    server.set_auth(auth)
    permissions = GstRtspServer.RTSPPermissions()
    for permission in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role("viewer", permission, True)
    factory.set_permissions(permissions)


def main() -> None:
    """Serves until stdin ends."""
    orders = json.loads(sys.stdin.readline())
    Gst.init(None)
    server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
    server.set_address("127.0.0.1")
    server.set_service(str(orders["port"]))
    factory.set_launch(orders["pipeline"])
    factory.set_shared(True)
    factory.connect("media-configure", configure, orders)
    if orders["user"]:
        protect(server, factory, orders)
    server.get_mount_points().add_factory("/camera", factory)
    loop = GLib.MainLoop()
    if not server.attach(None):
        sys.exit(f"cannot listen on port {orders['port']}")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    GLib.io_add_watch(sys.stdin, GLib.IO_HUP, lambda *_: loop.quit())
    loop.run()


if __name__ == "__main__":
    main()
