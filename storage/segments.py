"""Arithmetic of segments: which frame lies where, and sets of a segment's frames as 64-bit masks."""

from collections.abc import Iterable

SEGMENT_FRAMES = 64  # a 64-bit mask then names any set of a segment's frames


def locate(index: int) -> tuple[int, int]:
    """(segment, place within it) of the video's frame `index`."""
    return divmod(index, SEGMENT_FRAMES)


def segments_for(frames: int) -> int:
    """How many segments `frames` frames fill, the last perhaps in part."""
    return -(-frames // SEGMENT_FRAMES)


def mask_of(places: Iterable[int]) -> int:
    """The mask whose bits are the given places (0..63)."""
    mask = 0
    for place in places:
        mask |= 1 << place
    return mask


def places_in(mask: int) -> list[int]:
    """The places (0..63, ascending) whose bits are set."""
    return [place for place in range(SEGMENT_FRAMES) if mask >> place & 1]


def masks_by_segment(indices: Iterable[int]) -> dict[int, int]:
    """For frame indices of a video: segment -> mask of its frames among them."""
    masks: dict[int, int] = {}
    for index in indices:
        segment, place = locate(index)
        masks[segment] = masks.get(segment, 0) | 1 << place
    return masks
