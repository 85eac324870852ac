"""Draws the picture of a world at one moment, at any size."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world import ROOMS, World

Picture = NDArray[np.uint8]  # (side, side, 3) RGB

RADIUS = 0.125  # of a thing, as a share of the picture's side
SUBPIXEL_BITS = 4
RGB = {
    "red": (215, 35, 35),
    "green": (35, 175, 55),
    "blue": (40, 70, 225),
    "yellow": (240, 220, 40),
    "purple": (150, 45, 180),
    "white": (245, 245, 245),
}
# The two colours of each room's background, dull enough that every thing stands out.
GROUNDS = {
    "kitchen": ((150, 125, 100), (120, 100, 85)),
    "garden": ((70, 95, 60), (100, 120, 85)),
    "street": ((75, 75, 80), (105, 105, 110)),
    "office": ((120, 135, 145), (95, 105, 120)),
    "beach": ((175, 160, 120), (110, 135, 150)),
}


def render(world: World, t_s: float, side_px: int) -> Picture:
    """The picture at `t_s` seconds: (side_px, side_px, 3) RGB."""
    ground = room(world.room, side_px)
    picture: Picture = np.clip(ground.astype(np.float32) * world.light, 0, 255).astype(np.uint8)
    for thing in world.things:
        centre = thing.at(t_s)
        if centre is not None:
            outline = shape_outline(thing.shape, centre, RADIUS + thing.jitter[2], side_px)
            cv2.fillPoly(picture, [outline], RGB[thing.colour], cv2.LINE_AA, SUBPIXEL_BITS)
    return picture


@lru_cache(maxsize=32)
def room(name: str, side_px: int) -> Picture:
    """The room's empty picture: its own pattern in two colours."""
    first, second = (np.array(colour, np.float32) for colour in GROUNDS[name])
    y, x = np.mgrid[0:side_px, 0:side_px].astype(np.float32) / side_px
    waves = {
        "kitchen": np.sign(np.sin(x * 25) * np.sin(y * 25)),
        "garden": np.sin(x * 40 + np.sin(y * 9) * 3),
        "street": np.sign(np.sin(y * 30)),
        "office": np.sign(np.sin(x * 30)),
        "beach": np.clip((y - 0.5) * 8, -1, 1),
    }
    mix = (waves[name] + 1)[..., None] / 2
    return np.asarray(first * mix + second * (1 - mix), np.uint8)


def shape_outline(shape: str, centre: tuple[float, float], radius: float, side_px: int) -> NDArray[np.int32]:
    """Corners (n,2) of the shape in 1/16 pixels."""
    corners = _unit_outline(shape) * radius + np.array(centre)
    return np.asarray(np.round(corners * side_px * 2**SUBPIXEL_BITS), np.int32)


@lru_cache(maxsize=8)
def _unit_outline(shape: str) -> NDArray[np.float64]:
    if shape == "square":
        return np.array([(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)])
    if shape == "triangle":
        return np.array([(0, -1.05), (1, 0.85), (-1, 0.85)])
    if shape == "cross":
        a, b = 0.34, 1.0
        return np.array(
            [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
        )
    points, inner = (10, 0.42) if shape == "star" else (48, 1.0)
    angles = np.arange(points) * 2 * np.pi / points - np.pi / 2
    radii = np.where(np.arange(points) % 2 == 0, 1.1 if shape == "star" else 1.0, inner)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], axis=1)


def room_index(name: str) -> int:
    """The room's place in ROOMS."""
    return ROOMS.index(name)
