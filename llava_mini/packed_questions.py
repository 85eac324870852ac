"""Keeps several questions behind one prefix in one cache, and says which positions each row may attend to."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from llava_mini.kv_cache import fork, shorten


class Pack:
    """Rows of several questions in one cache, in any order. Each question's positions begin after the prefix.

    A question is a number. Its rows attend to the prefix and to its own earlier rows, as if it were alone. The cache
    is a fork, so the prefix that was passed in does not change. Nothing is copied until the first rows are run.
    """

    def __init__(self, prefix: DynamicCache) -> None:
        self.cache = fork(prefix)
        self._prefix = prefix.get_seq_length()
        self._owners: list[int] = []  # the question of each position after the prefix

    def __len__(self) -> int:
        """How many rows the questions have together."""
        return len(self._owners)

    def shorten(self, rows: int) -> None:
        """Cuts the pack to its first `rows`. Call it after a pass that failed, which may have grown some layers."""
        del self._owners[rows:]
        shorten(self.cache, self._prefix + rows)

    def extend(self, owners: Sequence[int]) -> None:
        """Notes the questions of the rows that were run."""
        self._owners += owners

    def is_shared(self, owners: Sequence[int]) -> bool:
        """Whether there is more than one question after these rows. A single one needs neither mask nor positions."""
        return len({*self._owners, *owners}) > 1

    def list_positions(self, owners: Sequence[int]) -> list[int]:
        """The position of each new row (R,) in its own question's sequence."""
        before, positions = Counter(self._owners), list[int]()
        for owner in owners:
            positions.append(self._prefix + before[owner])
            before[owner] += 1
        return positions

    def find_visible(self, owners: Sequence[int], device: torch.device) -> Tensor:
        """Which of all S positions each new row may attend to: (R,S), true if it may."""
        rows = torch.tensor(owners, device=device)
        keys = torch.tensor([*self._owners, *owners], device=device)
        own = (rows[:, None] == keys).tril(len(self._owners))
        return torch.cat([own.new_ones(len(rows), self._prefix), own], dim=1)
