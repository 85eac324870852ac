"""From uint8 pictures to what the vision tower reads, as the public implementation does it."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from llava_mini.errors import CheckpointError

FRAME_SIDE_PX = 336  # video frames are squeezed to this first, whatever the tower reads (golden/SEMANTICS.md, item 8)
Pictures = NDArray[np.uint8]  # (F,h,w,3) RGB


class Preprocessor:
    """CLIP's image processor (Pillow), behind the public implementation's nearest-neighbour squeeze for video."""

    def __init__(self, tower_folder: Path, resolution_ratio: int) -> None:
        try:
            self._processor = CLIPImageProcessorPil.from_pretrained(tower_folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no usable preprocessor_config.json in {tower_folder}: {error}") from error
        self._ratio = resolution_ratio

    def video(self, frames: Pictures) -> Tensor:
        """Frames (F,h,w,3) of a video -> (F,pictures,3,S,S) float32."""
        return self.images(squeezed(frames))

    def images(self, images: Pictures) -> Tensor:
        """Single images of one size (F,h,w,3), not squeezed first -> (F,pictures,3,S,S) float32."""
        pictures = [part for image in images for part in self._parts(image)]
        values = self._processor(pictures, return_tensors="np", input_data_format="channels_last")["pixel_values"]
        return torch.from_numpy(np.asarray(values)).view(len(images), -1, *values[0].shape)

    def _parts(self, image: Pictures) -> list[Pictures]:
        """The crops row-major and the whole image last (golden/SEMANTICS.md, item 10); at ratio 1 the image alone."""
        r = self._ratio
        if r == 1:
            return [image]
        height, width = image.shape[0] // r, image.shape[1] // r
        crops = [image[y * height : (y + 1) * height, x * width : (x + 1) * width] for y in range(r) for x in range(r)]
        return [*crops, image]


def squeezed(frames: Pictures) -> Pictures:
    """(F,h,w,3) -> (F,336,336,3) by nearest neighbour, the aspect ratio given up."""
    rows, columns = nearest_indices(frames.shape[1]), nearest_indices(frames.shape[2])
    return frames[:, rows[:, None], columns]


def nearest_indices(size: int) -> NDArray[np.intp]:
    """Which of `size` rows each of the 336 takes; float32: integers differ (golden/SEMANTICS.md, item 8)."""
    scale = np.float32(size) / np.float32(FRAME_SIDE_PX)
    indices: NDArray[np.intp] = np.floor(np.arange(FRAME_SIDE_PX, dtype=np.float32) * scale).astype(np.intp)
    return indices.clip(max=size - 1)
