"""The pictures of cameras are those of files; frames that hardly change, or not at all, are noticed."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from configs.settings import IngestSettings
from ingest.cameras.live_pictures import FreezeWatch, PictureMaker, Stillness, fingerprint_frame
from ingest.files.source import VideoSource
from storage.decoding import decode_picture
from tests.media import numbered, steady, write_video


def frame(picture: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")


def test_a_camera_and_a_file_make_the_same_pictures(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(1), size=(1280, 720), options={"preset": "ultrafast", "bf": "0"})
    (from_file,) = VideoSource(path, IngestSettings()).sample_frames(1.0)
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))[12]
    maker = PictureMaker(IngestSettings(), 0.0)
    picture = maker.make_picture(shown, fingerprint_frame(shown), Fraction(1))
    assert picture is not None
    assert (picture.model_jpeg, picture.view_jpeg) == (from_file.encode().model_jpeg, from_file.encode().view_jpeg)


def test_pixels_that_are_not_square_are_shown_in_the_right_aspect() -> None:
    maker = PictureMaker(IngestSettings(view_long_side_px=400), 0.0)
    for aspect, shape in ((Fraction(2), (100, 400, 3)), (None, (200, 400, 3)), (Fraction(100), (200, 400, 3))):
        shown = frame(numbered(5, 400, 200))
        picture = maker.make_picture(shown, hash(aspect), aspect)
        assert picture is not None
        assert decode_picture(picture.view_jpeg).shape == shape


def test_no_view_is_made_if_none_is_wanted() -> None:
    shown = frame(numbered(5))
    picture = PictureMaker(IngestSettings(view_long_side_px=0), 0.0).make_picture(shown, 1, None)
    assert picture is not None
    assert picture.view_jpeg == b""


def test_a_frame_is_static_against_the_last_one_that_was_not() -> None:
    """Slow changes add up: each frame differs little from the one before, and the fourth enough from the first."""
    maker = PictureMaker(IngestSettings(), static_threshold=8.0)
    static = []
    for number, level in enumerate((100, 103, 106, 109, 111, 100, 100)):
        shown = frame(np.full((48, 64, 3), level, np.uint8))
        picture = maker.make_picture(shown, number, None)
        assert picture is not None
        static.append(picture.static)
    assert static == [False, True, True, False, True, False, True]


def test_without_a_threshold_no_frame_is_static() -> None:
    maker = PictureMaker(IngestSettings(), static_threshold=0.0)
    pictures = [maker.make_picture(frame(numbered(1)), 1, None) for _ in range(2)]
    assert [picture.static for picture in pictures if picture] == [False, False]


def test_a_frozen_picture_is_reported_once_and_again_when_it_moves() -> None:
    watch = FreezeWatch(3.0)
    seen = [watch.watch_frame(fingerprint, t_s) for t_s, fingerprint in enumerate([1, 2, 2, 2, 2, 2, 2, 3, 3])]
    assert seen == [None, None, None, None, Stillness(True, 1), None, None, Stillness(False, 7), None]


@pytest.mark.parametrize("form", ["yuv420p", "yuvj422p", "nv12", "yuv420p10le", "gray", "rgb24", "yuyv422"])
@pytest.mark.parametrize("size", [(66, 48), (131, 51)])
def test_one_changed_pixel_changes_the_fingerprint(form: str, size: tuple[int, int]) -> None:
    if form == "yuyv422" and size[0] % 2:
        return
    picture = numbered(77, *size)
    changed = picture.copy()
    changed[-2:, -2:] ^= 64
    first, again, other = (
        fingerprint_frame(av.VideoFrame.from_ndarray(one, format="rgb24").reformat(format=form))
        for one in (picture, picture.copy(), changed)
    )
    assert first == again != other
