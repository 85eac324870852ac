"""Measures how probable an answer is, from the logits of its first token."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

BLANKS = " Ġ▁"  # how tokenizers spell the blank that belongs to a token: as it is, byte-level BPE, SentencePiece


@dataclass(frozen=True)
class Gauge:
    """What the probability of an answer depends on besides the logits."""

    yes: frozenset[int] = frozenset()  # tokens that are a form of "yes"
    no: frozenset[int] = frozenset()
    temperature: float = 1.0  # of the calibration, not of sampling: 1 for a checkpoint that names none

    def measure_probability(self, logits: Tensor, token: int) -> float:
        """The probability of `token` by the logits (V,) it was chosen from, whatever it was sampled with.

        A form of yes or no is measured against the forms of the other side only, because other words are no answer to
        such a question.
        """
        scaled = logits.float() / self.temperature
        for ours, theirs in ((self.yes, self.no), (self.no, self.yes)):
            if token in ours and theirs:
                return float((_add_up(scaled, ours) - _add_up(scaled, theirs)).sigmoid())
        return float(scaled.log_softmax(0)[token].exp())


def find_forms(vocabulary: Mapping[str, int], word: str) -> frozenset[int]:
    """The tokens that are the word in upper or lower case, with or without a blank."""
    return frozenset(number for token, number in vocabulary.items() if token.strip(BLANKS).lower() == word)


def _add_up(logits: Tensor, tokens: frozenset[int]) -> Tensor:
    return logits[sorted(tokens)].logsumexp(0)
