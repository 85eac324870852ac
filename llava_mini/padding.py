"""Resizes parts of a picture that lies in the middle of a square of one colour, without making the square."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLOCK_PIXELS = 2**22  # of padded rows made at a time: 12 MB

Box = tuple[int, int, int, int]  # left, top, right, bottom


def resize_padded(picture: NDArray[np.uint8], colour: Sequence[int], box: Box, side: int) -> NDArray[np.uint8]:
    """The part `box` of the square around `picture` (h,w,3), resized bicubically to (side,side,3).

    Bit for bit what Pillow makes of the whole square: it resizes rows first and columns then, in 8 bits each. Rows
    of one colour keep it, so only the picture's own rows are resized, some at a time.
    """
    height, width = picture.shape[:2]
    long = max(height, width)
    above, before = (long - height) // 2, (long - width) // 2  # of the square's padding
    left, top, right, bottom = box
    strip = np.full((bottom - top, side, 3), colour, np.uint8)
    inside = slice(max(left, before), min(right, before + width))  # the square's columns with picture in them
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
