"""Turns uint8 pictures into the vision tower's input, as the public implementation does."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_mini.config import FRAME_SIDE_PX, LlavaMiniConfig
from llava_mini.errors import CheckpointError, InputError
from llava_mini.padding import Box, resize_padded

# The processor enlarges a picture until its short side fits, and only then crops the centre. A picture longer than this
# is therefore cropped first, so that the enlarged picture does not take much memory.
MAX_ASPECT = 8

Pictures = NDArray[np.uint8]  # (F,h,w,3) RGB, or one picture (h,w,3)


class Preprocessor:
    """CLIP's image processor (Pillow), and the steps that the public implementation takes before it."""

    def __init__(self, tower_folder: Path, config: LlavaMiniConfig) -> None:
        try:
            self._processor = CLIPImageProcessorPil.from_pretrained(tower_folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no usable preprocessor_config.json in {tower_folder}: {error}") from error
        self._config = config

    def prepare_frames(self, frames: Pictures) -> Tensor:
        """Frames (F,h,w,3) of a video -> (F,pictures,3,S,S) float32."""
        ready = frames.shape[1:3] in {(FRAME_SIDE_PX, FRAME_SIDE_PX), (self._config.frame_side_px,) * 2}
        squeezed = frames if ready else squeeze(frames, self._config.frame_side_px)
        return torch.stack([self._normalize(self._split_picture(frame)) for frame in squeezed])

    def prepare_image(self, picture: Pictures) -> Tensor:
        """A single image (h,w,3) -> (pictures,3,S,S) float32; raises InputError."""
        r = self._config.resolution_ratio
        if picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < r:
            raise InputError(f"an image must have shape (height, width, 3) with at least {r} px a side")
        return self._normalize(self._pad_picture(picture) if self._config.pad_images else self._split_picture(picture))

    def _normalize(self, pictures: list[Pictures]) -> Tensor:
        """CLIP's own resize, centre crop and scaling, one picture at a time: n x (h,w,3) -> (n,3,S,S)."""
        values = [
            self._processor(within_aspect(picture), return_tensors="np", input_data_format="channels_last")
            for picture in pictures
        ]
        return torch.from_numpy(np.concatenate([value["pixel_values"] for value in values]))

    def _split_picture(self, picture: Pictures) -> list[Pictures]:
        """The crops in row-major order, then the whole picture (golden/SEMANTICS.md, item 10). No crops at ratio 1."""
        return [picture[top:bottom, left:right] for left, top, right, bottom in self._list_boxes(*picture.shape[:2])]

    def _pad_picture(self, picture: Pictures) -> list[Pictures]:
        """Splits the picture as it lies on a square of CLIP's mean colour, and resizes each part to (S,S,3).

        Pads first and then splits, as the public training does. The public inference splits first and pads every crop,
        so its crops do not form one picture. At ratio 1 both are the same.
        """
        long = max(picture.shape[:2])
        colour = [int(share * 255) for share in self._processor.image_mean]
        return [resize_padded(picture, colour, box, self._config.side_px) for box in self._list_boxes(long, long)]

    def _list_boxes(self, height: int, width: int) -> list[Box]:
        r = self._config.resolution_ratio
        h, w = height // r, width // r
        crops = [(x * w, y * h, (x + 1) * w, (y + 1) * h) for y in range(r) for x in range(r)]
        return [*(crops if r > 1 else []), (0, 0, width, height)]


def within_aspect(picture: Pictures) -> Pictures:
    """The picture, or its centre if one side is more than MAX_ASPECT times the other."""
    height, width = picture.shape[:2]
    most = MAX_ASPECT * min(height, width)
    top, left = max(height - most, 0) // 2, max(width - most, 0) // 2
    return picture[top : top + most, left : left + most]


def squeeze(frames: Pictures, side: int) -> Pictures:
    """(F,h,w,3) -> (F,side,side,3) by nearest neighbour, without keeping the aspect ratio."""
    rows, columns = nearest_indices(frames.shape[1], side), nearest_indices(frames.shape[2], side)
    return frames[:, rows[:, None], columns]


def nearest_indices(size: int, side: int = FRAME_SIDE_PX) -> NDArray[np.intp]:
    """The source row of each of `side` rows, in float32: integer arithmetic differs (golden/SEMANTICS.md, item 8)."""
    scale = np.float32(size) / np.float32(side)
    indices: NDArray[np.intp] = np.floor(np.arange(side, dtype=np.float32) * scale).astype(np.intp)
    return indices.clip(max=size - 1)
