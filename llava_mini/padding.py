"""Resizes parts of a picture centred on a square of one colour, without building the square."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLOCK_PIXELS = 2**22  # pixels of padded rows built at a time: 12 MB

Box = tuple[int, int, int, int]  # left, top, right, bottom


def resize_padded(picture: NDArray[np.uint8], colour: Sequence[int], box: Box, side: int) -> NDArray[np.uint8]:
    """Resizes the part `box` of the square around `picture` (h,w,3) bicubically to (side,side,3).

    The result equals Pillow's for the whole square, bit for bit. Pillow resizes rows first, then columns, each in
    8 bits. Rows of one colour keep that colour, so only the picture's own rows are resized, a block at a time.
    """
    height, width = picture.shape[:2]
    long = max(height, width)
    above, before = (long - height) // 2, (long - width) // 2  # the square's padding
    left, top, right, bottom = box
    strip = np.full((bottom - top, side, 3), colour, np.uint8)
    inside = slice(max(left, before), min(right, before + width))  # the square's columns that show the picture
    step = max(BLOCK_PIXELS // (right - left), 1)
    for first in range(max(top, above), min(bottom, above + height), step):
        last = min(first + step, bottom, above + height)
        block = np.full((last - first, right - left, 3), colour, np.uint8)
        rows = picture[first - above : last - above]
        block[:, inside.start - left : inside.stop - left] = rows[:, inside.start - before : inside.stop - before]
        strip[first - top : last - top] = _resize(block, side, last - first)
    return _resize(strip, side, side)


def _resize(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))
