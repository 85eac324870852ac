"""Reads an image as a video of one frame: the model sees the original, people see a smaller copy."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from configs.settings import IngestSettings
from ingest.errors import SourceTooLarge, SourceUnavailable, UnsupportedSource
from ingest.files.container import SourceInfo
from ingest.files.frame_encoding import EncodedFrame
from ingest.files.scaling import Picture, encode_jpeg, fit_view
from storage.decoding import convert_to_rgb, find_rotation_deg, open_picture
from storage.errors import DamagedFile

CODECS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}  # MPO: a JPEG with further pictures behind it
JPEG_HEAD, PNG_HEAD = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
HEAD_BYTES = 12


@dataclass(frozen=True)
class ImageSource:
    """An image: what it says about itself, and its only frame, which has no picture for the model."""

    info: SourceInfo
    frame: EncodedFrame


def is_image(path: Path) -> bool:
    """Whether the file begins as a JPEG, PNG or WebP does, whatever its name. Raises SourceUnavailable."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise SourceUnavailable(f"cannot read the file: {error.strerror}") from error
    webp = head[:4] == b"RIFF" and head[8:HEAD_BYTES] == b"WEBP"
    return webp or head.startswith((JPEG_HEAD, PNG_HEAD))


def read_image(path: Path, settings: IngestSettings) -> ImageSource:
    """Decodes the image, which proves that the encoder can, and packs the picture for people.

    Raises UnsupportedSource, SourceTooLarge.
    """
    try:
        with open_picture(path) as image:
            _check_head(image, settings)
            codec, rotation_deg, picture = CODECS[image.format or ""], find_rotation_deg(image), convert_to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise SourceTooLarge("the image has more pixels than can be read safely") from error
    except DamagedFile as error:
        raise UnsupportedSource(
            f"the image cannot be read, it is cut off or damaged: {error}; save it again with another program"
        ) from error
    height, width = picture.shape[:2]
    info = SourceInfo(width, height, None, None, codec, rotation_deg)
    return ImageSource(info, EncodedFrame(0, 0.0, None, _encode_view(picture, settings)))


def _check_head(image: Image.Image, settings: IngestSettings) -> None:
    if image.width * image.height > settings.max_frame_pixels:
        raise SourceTooLarge(
            f"an image of {image.width}x{image.height} is larger than {settings.max_frame_pixels} pixels "
            "(ingest.max_frame_pixels)"
        )
    if image.format in ("PNG", "WEBP") and getattr(image, "is_animated", False):
        raise UnsupportedSource(f"the {image.format} is animated: convert it to a video, such as mp4")


def _encode_view(picture: Picture, settings: IngestSettings) -> bytes | None:
    if not settings.view_long_side_px:
        return None
    height, width = picture.shape[:2]
    size = fit_view(width, height, 1.0, settings.view_long_side_px)
    small = Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return encode_jpeg(np.array(small, np.uint8), settings.view_jpeg_quality)
