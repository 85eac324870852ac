"""Adds up fused rows frame by frame, so that a mean over many frames never needs them at once."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]  # (L,D)


@dataclass
class RunningMean:
    """The mean over the frames of some slots of a segment or of a watch's interval."""

    slots: set[int] = field(default_factory=set)
    total: Rows | None = None

    def add(self, slots: set[int], mean: Rows) -> None:
        """Adds the mean rows over these slots, none of which was added before."""
        weighted = mean * np.float32(len(slots))
        self.total = weighted if self.total is None else self.total + weighted
        self.slots |= slots

    @property
    def rows(self) -> Rows:
        """The mean so far."""
        assert self.total is not None, "something was added"
        return np.asarray(self.total / np.float32(len(self.slots)), np.float32)
