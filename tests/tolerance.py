"""How far numbers may differ that were kept in 16 bits, or went through the model in other batches."""

from typing import TypedDict


class Tolerance(TypedDict):
    """As numpy takes it."""

    atol: float
    rtol: float


HALF: Tolerance = {"atol": 2e-2, "rtol": 5e-3}
