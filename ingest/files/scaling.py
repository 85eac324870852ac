"""Makes pictures small: squeezed for the model, in their true aspect for people; and packs them as JPEG."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]  # (h, w, 3) RGB


def squeeze_picture(picture: Picture, side_px: int) -> Picture:
    """(h,w,3) -> (side,side,3) by nearest neighbour, ignoring the aspect ratio, as the public implementation does."""
    rows, columns = _nearest(picture.shape[0], side_px), _nearest(picture.shape[1], side_px)
    return picture[rows].take(columns, axis=1)  # twice as fast as indexing both at once


def fit_view(width_px: int, height_px: int, aspect: float, long_side_px: int) -> tuple[int, int]:
    """(width, height) for showing a picture whose pixels are `aspect` times as wide as high.

    Neither side is enlarged, and the longer one is at most `long_side_px`.
    """
    width, height = width_px * min(aspect, 1.0), height_px / max(aspect, 1.0)
    scale = min(long_side_px / max(width, height), 1.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def encode_jpeg(picture: Picture, quality: int) -> bytes:
    """RGB (h,w,3) -> JPEG."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV encodes every uint8 picture"
    return data.tobytes()


@lru_cache(maxsize=64)
def _nearest(size: int, side_px: int) -> NDArray[np.intp]:
    """Which of `size` rows each of `side_px` rows takes. In float32: integers differ for 360, 540, 720, 1080 to 336."""
    scale = np.float32(size) / np.float32(side_px)
    indices = np.floor(np.arange(side_px, dtype=np.float32) * scale).astype(np.intp)
    return np.asarray(np.minimum(indices, size - 1))
