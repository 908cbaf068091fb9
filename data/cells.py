#!/usr/bin/env python3
"""Draws cells under a microscope, and the mask of each picture: python data/cells.py FOLDER [--seed 0]

    FOLDER/training/images/000.png …    160 pictures, RGB, 96 x 96
    FOLDER/training/masks/000.png …     indexed PNGs of the same names: 0 is the ground, 1 a cell
    FOLDER/validation/…                 40 more

The same seed gives the same pictures. A cell is as bright as the stained ground around it, on the whole: what tells it
is its grain and its rim. Stains without either, in the colour of cells, are ground: a threshold takes them for cells.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 96
COUNTS = {"training": 160, "validation": 40}
GROUND, CELL, RIM = np.array([226, 196, 214]), np.array([186, 140, 190]), np.array([112, 62, 132])
PALETTE = [0, 0, 0, 230, 159, 0]  # the ground black, cells orange


def picture(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture, uint8 of (SIZE, SIZE, 3), and its mask, uint8 of (SIZE, SIZE) with 1 where a cell is."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    colours = np.empty((SIZE, SIZE, 3))
    colours[:] = GROUND
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for _ in range(random.integers(3, 6)):  # stains, out of focus
        place, distance, _ = _blob(random, random.uniform(9, 19))
        colours[place] += np.clip(1.3 - distance, 0, 0.6)[..., None] * (CELL - GROUND)
    for _ in range(random.integers(4, 9)):
        place, distance, angle = _blob(random, random.uniform(9, 19))
        inside, here = distance < 1, colours[place]
        grain = np.sin(angle * random.integers(5, 9) + distance * random.uniform(10, 16))
        shade = CELL + 26 * grain[..., None] + random.normal(0, 5, 3)
        here[inside] = shade[inside]
        rim = np.exp(-(((distance - 0.96) / 0.07) ** 2))[..., None]
        here += 0.75 * rim * (RIM - here)
        mask[place][inside] = 1
    light = 1 + 0.22 * np.sin(x / SIZE * random.uniform(2, 5) + random.uniform(0, 6)) * np.cos(
        y / SIZE * random.uniform(2, 5) + random.uniform(0, 6)
    )
    colours = colours * light[..., None] + random.normal(0, 12, colours.shape)
    return colours.clip(0, 255).astype(np.uint8), mask


def _blob(random: np.random.Generator, radius: float):
    """A round thing with a wavy outline: the part of the picture that it is in, and there each pixel's distance from its
    middle, 1 on the outline, and angle."""
    top, left = random.uniform(0, SIZE, 2)
    rows, columns = (slice(max(int(at - 2 * radius), 0), int(at + 2 * radius)) for at in (top, left))
    y, x = np.mgrid[:SIZE, :SIZE][:, rows, columns]
    dx, dy = x - left, (y - top) * random.uniform(0.8, 1.3)
    angle = np.arctan2(dy, dx)
    outline = radius * (1 + sum(random.normal(0, 0.09) * np.sin(k * angle + k * k) for k in (2, 3, 4)))
    return (rows, columns), np.hypot(dx, dy) / outline, angle


def make(folder: Path, seed: int = 0) -> None:
    """Writes the pictures and masks of both channels."""
    random = np.random.default_rng(seed)
    for channel, count in COUNTS.items():
        for kind in ("images", "masks"):
            (folder / channel / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            colours, mask = picture(random)
            Image.fromarray(colours).save(folder / channel / f"images/{number:03}.png")
            indexed = Image.fromarray(mask)
            indexed.putpalette(PALETTE)
            indexed.save(folder / channel / f"masks/{number:03}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    make(words.folder, words.seed)
    print(
        ", ".join(f"{count} pictures for {channel}" for channel, count in COUNTS.items()),
        f"in {words.folder}",
    )
