"""Squeezes decoded pictures to the archive's size, and packs them as JPEG."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE_PX = 336  # what the public model reads (golden/SEMANTICS.md, item 8); the true aspect is in video.json
Picture = NDArray[np.uint8]  # (h, w, 3) RGB


def squeezed(picture: Picture) -> Picture:
    """(h,w,3) -> (336,336,3) by nearest neighbour, the aspect ratio given up, as the public implementation does."""
    rows, columns = _nearest(picture.shape[0]), _nearest(picture.shape[1])
    return picture[rows].take(columns, axis=1)  # twice as fast as both at once


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """RGB (h,w,3) -> JPEG."""
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV encodes every uint8 picture"
    return data.tobytes()


@lru_cache(maxsize=64)
def _nearest(size: int) -> NDArray[np.intp]:
    """Which of `size` rows each of the 336 takes. In float32: integer arithmetic differs for 360, 540, 720, 1080."""
    scale = np.float32(size) / np.float32(SIDE_PX)
    indices = np.floor(np.arange(SIDE_PX, dtype=np.float32) * scale).astype(np.intp)
    return np.asarray(np.minimum(indices, size - 1))
