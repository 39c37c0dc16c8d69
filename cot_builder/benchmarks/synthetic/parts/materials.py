"""Materials and helpers that several parts use."""

import numpy as np

from cot_builder.benchmarks.synthetic.surface import Colour, Material, Pen, disc

STEEL = Material((168, 170, 174), 0.75, "brushed", 0.07)
DULL_STEEL = Material((138, 140, 143), 0.4, "brushed", 0.06)
BRASS = Material((196, 164, 88), 0.7, "brushed", 0.05)
GOLD = Material((214, 176, 84), 0.8, "grain", 0.02)
COPPER = Material((178, 118, 78), 0.6, "grain", 0.03)
SOLDER = Material((184, 186, 190), 0.8, "grain", 0.04, 0.15)
BLACK = Material((36, 36, 39), 0.3, "grain", 0.05, 0.12)
WHITE = Material((226, 226, 222), 0.25, "grain", 0.012)
INK = Material((40, 40, 46), 0.1, "grain", 0.05)
PALE = Material((214, 216, 214), 0.15, "grain", 0.03)
DEEP = Material((22, 22, 24), 0.02, "grain", 0.05)


def pick(pen: Pen, *colours: Colour) -> Colour:
    """Choose one of the colours at random."""
    return colours[int(pen.rng.integers(len(colours)))]


def pick_text(pen: Pen, *texts: str) -> str:
    """Choose one of the texts at random."""
    return texts[int(pen.rng.integers(len(texts)))]


def ring(x: float, y: float, outer: float, inner: float) -> list[np.ndarray]:
    """Return the outlines of a flat ring."""
    return [disc(x, y, outer), disc(x, y, inner)]
