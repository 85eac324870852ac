"""Adds up fused rows frame by frame, so that a mean over many frames never needs them at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (L,D)


@dataclass
class RunningMean:
    """The mean over some frames."""

    frames: int = 0
    total: Rows | None = None

    def add(self, frames: int, mean: Rows) -> None:
        """Adds the mean rows over so many frames."""
        weighted = mean * np.float32(frames)
        self.total = weighted if self.total is None else self.total + weighted
        self.frames += frames

    @property
    def rows(self) -> Rows:
        """The mean so far."""
        assert self.total is not None, "something was added"
        return np.asarray(self.total / np.float32(self.frames), np.float32)
