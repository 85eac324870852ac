"""Checks whether frames, text and answer fit into the LLM's context together."""

from llava_mini.errors import PromptTooLong


def frames_that_fit(limit: int, tokens_per_frame: int, text_tokens: int, new_tokens: int) -> int:
    """How many frames fit beside the text and the answer to come."""
    return max(limit - text_tokens - new_tokens, 0) // tokens_per_frame


def require_fit(frames: int, *, limit: int, tokens_per_frame: int, text_tokens: int, new_tokens: int) -> None:
    """Raises PromptTooLong, which holds the number of frames that would fit."""
    would_fit = frames_that_fit(limit, tokens_per_frame, text_tokens, new_tokens)
    if frames > would_fit:
        raise PromptTooLong(frames, would_fit, limit)
