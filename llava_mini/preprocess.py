"""From uint8 pictures to what the vision tower reads, as the public implementation does it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_mini.config import FRAME_SIDE_PX, LlavaMiniConfig
from llava_mini.errors import CheckpointError, InputError
from llava_mini.padding import Box, resize_padded

# The processor enlarges a picture until its short side fits, and cuts out the centre only then: of a picture longer
# than this, what lies farther from the centre is cut off first, so that memory stays within the picture's own size.
MAX_ASPECT = 8

Pictures = NDArray[np.uint8]  # (F,h,w,3) RGB, or one picture (h,w,3)


class Preprocessor:
    """CLIP's image processor (Pillow), and what the public implementation does before it."""

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
        return torch.stack([self._normalize(self._split(frame)) for frame in squeezed])

    def prepare_image(self, picture: Pictures) -> Tensor:
        """A single image (h,w,3) -> (pictures,3,S,S) float32; raises InputError."""
        r = self._config.resolution_ratio
        if picture.ndim != 3 or picture.shape[2] != 3 or min(picture.shape[:2]) < r:
            raise InputError(f"an image must have shape (height, width, 3) with {r} px a side at least")
        return self._normalize(self._pad(picture) if self._config.pad_images else self._split(picture))

    def _normalize(self, pictures: list[Pictures]) -> Tensor:
        """CLIP's own resize, centre cut and scaling, a picture at a time: n x (h,w,3) -> (n,3,S,S)."""
        values = [
            self._processor(within_aspect(picture), return_tensors="np", input_data_format="channels_last")
            for picture in pictures
        ]
        return torch.from_numpy(np.concatenate([value["pixel_values"] for value in values]))

    def _split(self, picture: Pictures) -> list[Pictures]:
        """The crops row-major and the whole picture last (golden/SEMANTICS.md, item 10); at ratio 1 it alone."""
        return [picture[top:bottom, left:right] for left, top, right, bottom in self._boxes(*picture.shape[:2])]

    def _pad(self, picture: Pictures) -> list[Pictures]:
        """As `_split` of the picture on a square of CLIP's mean colour, each part resized to (S,S,3).

        It is padded first and split then, as in the public training. The public inference splits first and pads every
        crop, so that its crops form no picture together. At ratio 1 the two are the same.
        """
        long = max(picture.shape[:2])
        colour = [int(share * 255) for share in self._processor.image_mean]
        return [resize_padded(picture, colour, box, self._config.side_px) for box in self._boxes(long, long)]

    def _boxes(self, height: int, width: int) -> list[Box]:
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
    """(F,h,w,3) -> (F,side,side,3) by nearest neighbour, the aspect ratio given up."""
    rows, columns = nearest_indices(frames.shape[1], side), nearest_indices(frames.shape[2], side)
    return frames[:, rows[:, None], columns]


def nearest_indices(size: int, side: int = FRAME_SIDE_PX) -> NDArray[np.intp]:
    """Which of `size` rows each of `side` takes; float32: integers differ (golden/SEMANTICS.md, item 8)."""
    scale = np.float32(size) / np.float32(side)
    indices: NDArray[np.intp] = np.floor(np.arange(side, dtype=np.float32) * scale).astype(np.intp)
    return indices.clip(max=size - 1)
