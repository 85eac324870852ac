"""Decodes a JPEG, PNG or WebP to upright RGB, for ingest and encoder alike. Knows nothing of sources or settings."""

import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.errors import DamagedFile

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP")
ORIENTATION = 0x0112  # EXIF 2.3, 4.6.4
# Orientation -> the transposition that turns the image upright, and how many degrees counter-clockwise that is.
UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, 0),
    3: (Image.Transpose.ROTATE_180, 180),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, 0),
    5: (Image.Transpose.TRANSPOSE, 90),
    6: (Image.Transpose.ROTATE_270, 270),
    7: (Image.Transpose.TRANSVERSE, 270),
    8: (Image.Transpose.ROTATE_90, 90),
}
# Exceptions that Pillow's readers raise on damaged files.
DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error, zlib.error)


def decode_picture(data: bytes) -> NDArray[np.uint8]:
    """A JPEG, PNG or WebP -> upright RGB (h,w,3), 8 bit; transparent areas become white. Raises DamagedFile."""
    with open_picture(BytesIO(data)) as image:
        return convert_to_rgb(image)


@contextmanager
def open_picture(file: Path | BytesIO) -> Iterator[Image.Image]:
    """Opens the picture and reads only its header. Raises DamagedFile, also for damage that the caller's reads find."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            yield image
    except DAMAGE as error:
        raise DamagedFile(f"not a whole JPEG, PNG or WebP ({type(error).__name__})") from error


def find_rotation_deg(image: Image.Image) -> int:
    """How many degrees counter-clockwise the picture must be turned to be upright."""
    return UPRIGHT[orientation][1] if (orientation := _read_orientation(image)) in UPRIGHT else 0


def convert_to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """The picture as upright RGB (h,w,3), 8 bit, on white."""
    orientation = _read_orientation(image)
    converted = _flatten(image)
    if orientation in UPRIGHT:
        converted = converted.transpose(UPRIGHT[orientation][0])
    return np.array(converted, np.uint8)


def _flatten(image: Image.Image) -> Image.Image:
    """The image in RGB: 16 bits become 8, and transparent areas become white."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips values above 255
        levels = np.asarray(image).astype(np.uint32) >> 8
        return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return image.convert("RGB")


def _read_orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DAMAGE as error:
        log.warning("the picture's EXIF data is damaged, so the picture is not rotated: %s", type(error).__name__)
        return 1
