"""Tolerances for numbers that were stored in 16 bits or went through the model in other batches."""

from typing import TypedDict


class Tolerance(TypedDict):
    """Arguments for numpy's comparisons."""

    atol: float
    rtol: float


HALF: Tolerance = {"atol": 2e-2, "rtol": 5e-3}
