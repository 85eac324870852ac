"""Packs an array and a number into the value of one Redis key."""

import logging

import numpy as np

from storage.records import Half

log = logging.getLogger(__name__)


def pack_array(number: int, array: Half) -> bytes:
    """A number (tokens: the mask; fusions: the count of frames), the shape, then float16 values; little-endian."""
    header = np.array([number], "<u8").tobytes() + np.array([array.ndim, *array.shape], "<u4").tobytes()
    return header + np.ascontiguousarray(array, "<f2").tobytes()


def unpack_array(blob: bytes, ndim: int) -> tuple[int, Half] | None:
    """(number, array) as packed; None for a damaged value, which is made again."""
    try:
        mask = int.from_bytes(blob[:8], "little")
        found, *shape = np.frombuffer(blob, "<u4", ndim + 1, 8).tolist()
        values = np.frombuffer(blob, "<f2", -1, 12 + 4 * ndim)
        if found != ndim:
            raise ValueError(f"{found} dimensions, not {ndim}")
        return mask, values.reshape(shape)
    except ValueError as error:
        log.error("ignoring a damaged value in the cache: %s", error)
        return None
