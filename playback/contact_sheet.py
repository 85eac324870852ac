"""Makes a contact sheet: pictures in rows and columns, each with its time."""

from collections.abc import Sequence

import cv2
import numpy as np

from playback.picture_film import Pixels, decode_picture, fit_picture

TILE_PX = 320  # width
GAP_PX = 4
MOST_ROWS = 12
MOST_COLUMNS = 12
QUALITY = 85
LABEL_SCALE, LABEL_PX = 0.5, 18
MOST_TILE_HEIGHT = 4  # times its width


def count_tiles(pictures: int, columns: int) -> int:
    """How many of so many pictures are shown: all, or what fits into the rows."""
    return min(pictures, columns * MOST_ROWS)


def make_sheet(tiles: Sequence[tuple[str, bytes]], columns: int) -> bytes:
    """The JPEG of the sheet. Tiles are (label, JPEG); the place of a damaged picture stays black."""
    decoded = [(label, decode_picture(jpeg)) for label, jpeg in tiles]
    columns = min(columns, len(decoded))
    rows = -(-len(decoded) // columns)
    height = next((_find_height(pixels) for _, pixels in decoded if pixels is not None), TILE_PX)
    step_x, step_y = TILE_PX + GAP_PX, height + GAP_PX
    sheet = np.zeros((rows * step_y - GAP_PX, columns * step_x - GAP_PX, 3), np.uint8)
    for number, (label, pixels) in enumerate(decoded):
        y, x = number // columns * step_y, number % columns * step_x
        if pixels is not None:
            sheet[y : y + height, x : x + TILE_PX] = fit_picture(pixels, (TILE_PX, height))
        _write_label(sheet[y : y + height, x : x + TILE_PX], label)
    ok, jpeg = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert ok, "a picture of this size can be encoded"
    return jpeg.tobytes()


def _find_height(pixels: Pixels) -> int:
    ratio = min(pixels.shape[0] / pixels.shape[1], MOST_TILE_HEIGHT)
    return max(int(TILE_PX * ratio), LABEL_PX)


def _write_label(tile: Pixels, label: str) -> None:
    """White on black, so that it can be read on any picture."""
    at = (5, tile.shape[0] - 6)
    for colour, thickness in ((0, 3), (255, 1)):
        cv2.putText(tile, label, at, cv2.FONT_HERSHEY_SIMPLEX, LABEL_SCALE, (colour,) * 3, thickness, cv2.LINE_AA)
