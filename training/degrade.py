"""Makes a drawn picture look as it does after the service's path: video codec, JPEG, resize."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.render import Picture

# Pictures are drawn and degraded at twice the model's side. At the service's 336 px, H.264 and JPEG leave finer traces.
DRAWN_PX = 128
BANK = 64  # noise pictures made once; a random one, randomly rolled, is as good as a new one


class Degrader:
    """Adds noise, blur and JPEG traces at random, then applies the image processor's own bicubic resize."""

    def __init__(self, seed: int, side_px: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._side_px = side_px
        self._noise = self._rng.normal(0, 1, (BANK, DRAWN_PX, DRAWN_PX, 1)).astype(np.float32)

    def __call__(self, picture: Picture) -> Picture:
        """(128,128,3) -> (side,side,3)."""
        rng = self._rng
        noise = np.roll(self._noise[rng.integers(BANK)], int(rng.integers(DRAWN_PX)), axis=int(rng.integers(2)))
        values: NDArray[np.float32] = picture + noise * rng.uniform(0, 6)
        degraded: NDArray[Any] = np.clip(values, 0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            degraded = cv2.GaussianBlur(degraded, (3, 3), 0)
        if rng.random() < 0.4:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))]
            degraded = np.asarray(cv2.imdecode(cv2.imencode(".jpg", degraded, quality)[1], cv2.IMREAD_COLOR))
        return np.asarray(Image.fromarray(degraded).resize((self._side_px, self._side_px), Image.Resampling.BICUBIC))
