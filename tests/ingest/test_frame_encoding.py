"""The pictures of a sampled frame: one as the model saw it in training, one as a player shows it."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.stream import VideoStream

from configs.settings import IngestSettings
from ingest.files.frame_encoding import SampledFrame
from ingest.files.source import VideoSource
from storage.decoding import decode_picture
from tests.ingest.test_limits import rotate
from tests.media import number_of, numbered, steady, write_video


def sampled(path: Path, **settings: int) -> list[SampledFrame]:
    return list(VideoSource(path, IngestSettings.model_validate(settings)).sample_frames(1.0))


def write_wide_pixels(path: Path, size: tuple[int, int], aspect: Fraction) -> Path:
    """A video of 25 frames whose pixels are not square."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.sample_aspect_ratio = "yuv420p", aspect
        for number in range(25):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(number, *size), format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("size", "long_side_px", "view"),
    [
        ((1280, 720), 960, (960, 540)),
        ((640, 360), 960, (640, 360)),
        ((480, 640), 320, (240, 320)),
        ((320, 240), 0, None),
        ((1920, 16), 96, (96, 1)),
    ],
)
def test_the_view_keeps_the_aspect_and_is_never_enlarged(
    size: tuple[int, int], long_side_px: int, view: tuple[int, int] | None, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "video.mp4", steady(1), size=size, options={"preset": "ultrafast"})
    (frame,) = sampled(path, view_long_side_px=long_side_px)
    assert frame.model.shape == (336, 336, 3)
    assert (None if frame.view is None else frame.view.shape[1::-1]) == view
    assert (frame.encode().view_jpeg is None) == (view is None)


@pytest.mark.parametrize(
    ("size", "aspect", "shown", "view"),
    [
        ((720, 576), Fraction(64, 45), (1024, 576), (720, 405)),
        ((720, 576), Fraction(1, 2), (360, 576), (360, 576)),
        ((1440, 1080), Fraction(4, 3), (1920, 1080), (960, 540)),
        ((720, 576), Fraction(100, 1), (720, 576), (720, 576)),  # nonsense
    ],
)
def test_pixels_that_are_not_square_are_shown_in_the_right_aspect(
    size: tuple[int, int], aspect: Fraction, shown: tuple[int, int], view: tuple[int, int], tmp_path: Path
) -> None:
    path = write_wide_pixels(tmp_path / "video.mp4", size, aspect)
    source = VideoSource(path, IngestSettings())
    (frame,) = source.sample_frames(1.0)
    assert (source.info.width_px, source.info.height_px) == shown
    assert frame.view is not None
    assert frame.view.shape[1::-1] == view
    assert number_of(frame.view) == number_of(frame.model) == 12


@pytest.mark.parametrize(("degrees", "turns"), [(90, 3), (180, 2), (270, 1)])
def test_the_view_is_turned_like_the_models_picture(degrees: int, turns: int, tmp_path: Path) -> None:
    path = write_wide_pixels(tmp_path / "video.mp4", (96, 48), Fraction(2))
    rotate(path, degrees)
    source = VideoSource(path, IngestSettings())
    (frame,) = source.sample_frames(1.0)
    assert frame.view is not None
    assert frame.view.shape[1::-1] == ((96, 24) if turns == 2 else (24, 96))
    assert (source.info.width_px, source.info.height_px) == ((192, 48) if turns == 2 else (48, 192))
    assert number_of(np.rot90(frame.view, -turns)) == 12


def test_the_view_is_smoothed_and_the_models_picture_is_not(tmp_path: Path) -> None:
    stripes = np.zeros((960, 1280, 3), np.uint8)
    stripes[:, ::2] = 255
    path = tmp_path / "video.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 1280, 960, "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stripes, format="rgb24")))
        container.mux(stream.encode(None))
    (frame,) = sampled(path, view_long_side_px=640)
    assert frame.view is not None
    assert abs(frame.view.astype(int) - 127).max() < 20
    assert set(np.unique(frame.model)) == {0, 255}


def test_a_high_resolution_model_gets_its_side(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", steady(1), size=(1280, 720), options={"preset": "ultrafast"})
    (frame,) = sampled(path, model_side_px=672)
    assert frame.model.shape == (672, 672, 3)
    assert number_of(frame.model) == 12


def test_a_frame_is_packed_once_however_long_it_is_shown(tmp_path: Path) -> None:
    frames = sampled(write_video(tmp_path / "slides.mp4", [0.0, 3.6, 3.64], size=(320, 240)))
    encoded = [frame.encode() for frame in frames]
    assert [(one.slot, one.t_s) for one in encoded] == [(slot, slot + 0.5) for slot in range(4)]
    assert encoded[0].model_jpeg is encoded[2].model_jpeg
    assert encoded[0].view_jpeg is encoded[2].view_jpeg
    assert encoded[0].model_jpeg is not None
    assert encoded[0].view_jpeg is not None
    assert decode_picture(encoded[0].model_jpeg).shape == (336, 336, 3)
    assert decode_picture(encoded[0].view_jpeg).shape == (240, 320, 3)
