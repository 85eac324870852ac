"""A camera server that others wrote plays the same files, so that no test trusts only ours."""

from pathlib import Path

import av
import pytest

from tests.cameras.camera_files import Codec, write_camera_file
from tests.cameras.gst_server import INSTALL, gst_server, is_installed
from tests.cameras.watching import watching

ROOT = Path(__file__).parent.parent.parent
USER, PASSWORD = "Jürgen@home/", "p@ss:w/ö?&%#"
FRAMES = 20
installed = pytest.mark.skipif(not is_installed(), reason=f"needs: {INSTALL}")


def test_make_installs_the_server_that_these_tests_need() -> None:
    assert " ".join((ROOT / "Makefile").read_text().replace("\\\n", "").split()).count(INSTALL) == 1


@installed
@pytest.mark.parametrize(("codec", "b_frames"), [("h264", 2), ("hevc", 0), ("mjpeg", 0)])
def test_files_play_in_order_across_the_loop(tmp_path: Path, codec: Codec, b_frames: int) -> None:
    file = write_camera_file(tmp_path / "film.mkv", FRAMES / 15, codec=codec, gop=5, b_frames=b_frames)
    # A client may begin in the middle of a picture, whose rest is then damaged.
    with gst_server(tmp_path, file) as cam, watching(cam.url, skip_damaged=True) as frames:
        numbers = [next(frames).number for _ in range(FRAMES + 5)]
    assert numbers == [(numbers[0] + k) % FRAMES for k in range(FRAMES + 5)]


@installed
@pytest.mark.parametrize("scheme", ["basic", "digest"])
def test_the_right_password_opens_it_and_a_missing_one_does_not(tmp_path: Path, scheme: str) -> None:
    with gst_server(tmp_path, user=USER, password=PASSWORD, scheme=scheme) as cam:  # type: ignore[arg-type]
        with watching(cam.login_url, "udp") as frames:
            assert next(frames).size == (160, 120)
        with pytest.raises(av.HTTPUnauthorizedError), watching(cam.url):
            pass


@installed
def test_it_can_be_killed_and_restarted_on_its_port(tmp_path: Path) -> None:
    with gst_server(tmp_path) as cam:
        url = cam.url
        with watching(url, skip_damaged=True) as frames:
            next(frames)
            cam.kill()
            list(frames)  # ends, perhaps in the middle of a picture
        with pytest.raises(av.ConnectionRefusedError), watching(url):
            pass
        cam.start()
        assert cam.url == url
        with watching(url) as frames:
            next(frames)
