"""Flat textures that fill the image: leather, grids, cloth, perforated sheet, marble."""

import cv2
import numpy as np

from cot_builder.benchmarks.synthetic.parts.materials import pick
from cot_builder.benchmarks.synthetic.surface import Material, Pen, box, disc, lay, next_piece, noise


def leather(pen: Pen) -> None:
    hide = Material((122, 70, 42), 0.3, "cloud", 0.035)
    lay(pen, box(0.5, 0.5, 1.5, 1.5), hide)
    n = pen.size
    bank = noise("cloud", n)
    offset = int(pen.rng.integers(0, bank.shape[0] - n + 1))
    cells = _cells(n, pen.rng, 9 * pen.unit)
    pen.surface.height += np.float32(3.0 * pen.unit) * cells * (1 + 0.15 * bank[offset : offset + n, :n])
    pen.surface.albedo *= (0.86 + 0.18 * cells)[..., None]


def _cells(n: int, rng: np.random.Generator, pitch: float) -> np.ndarray:
    """Draw rounded cells about ``pitch`` pixels wide with creases between them, 0–1."""
    count = int(n / pitch) + 1
    seeds = np.ones((n, n), np.uint8)
    grid = (np.stack(np.meshgrid(np.arange(count), np.arange(count)), -1).reshape(-1, 2) + 0.5) * pitch
    grid = np.clip(grid + rng.uniform(-0.5, 0.5, grid.shape) * pitch, 0, n - 1).astype(int)
    seeds[grid[:, 1], grid[:, 0]] = 0
    distance = cv2.distanceTransform(seeds, cv2.DIST_L2, 5) / np.float32(pitch)
    return cv2.GaussianBlur(np.clip(1.15 - 1.3 * distance * distance, 0, 1).astype(np.float32), (0, 0), 0.9)


def grid(pen: Pen) -> None:
    wire = Material((150, 150, 150), 0.5, "grain", 0.04)
    for k in range(7):
        at = 0.08 + 0.14 * k
        for part in range(7):
            middle = 0.08 + 0.14 * part
            for upright in (True, False):
                if next_piece(pen) is None:
                    continue
                shape = box(at, middle, 0.034, 0.16) if upright else box(middle, at, 0.16, 0.034)
                lay(pen, shape, wire, lift=5 if (k + part + upright) % 2 else 3, bevel=3)


def woven(pen: Pen) -> None:
    warp = pick(pen, (168, 150, 122), (150, 140, 128), (176, 156, 120))
    pitch, n = 0.05, pen.size
    lay(pen, box(0.5, 0.5, 1.5, 1.5), Material((84, 72, 56), 0.03))
    y, x = np.mgrid[0:n, 0:n].astype(np.float32) / n / pitch
    over = (np.floor(x) + np.floor(y)) % 2
    along = np.where(over > 0, y % 1, x % 1) - 0.5
    across = np.where(over > 0, x % 1, y % 1) - 0.5
    thread = np.clip(1 - (across / 0.46) ** 2, 0, 1) * (0.55 + 0.45 * np.cos(np.pi * along))
    fibres = np.sin((np.where(over > 0, x, y) * 9 + along * 1.5) * 2 * np.pi)
    bank = noise("fibre", n)[:n, :n]
    pen.surface.height += (thread * 6 + fibres * thread * 0.35 + bank * 0.35).astype(np.float32) * np.float32(pen.unit)
    base = np.array(warp[::-1], np.float32) * (1 + 0.05 * bank)[..., None]
    cover = np.clip(thread * 2.2, 0, 1).astype(np.float32)[..., None]
    pen.surface.albedo += (base * (0.75 + 0.3 * thread[..., None]).astype(np.float32) - pen.surface.albedo) * cover


def perforated(pen: Pen) -> None:
    sheet = Material(pick(pen, (172, 174, 178), (186, 186, 184)), 0.5, "brushed", 0.05)
    lay(pen, box(0.5, 0.5, 1.5, 1.5), sheet)
    for i in range(9):
        for j in range(10):
            x, y = 0.06 + 0.115 * i + (0.0575 if j % 2 else 0), 0.04 + 0.1 * j
            if next_piece(pen) is not None:
                lay(pen, disc(x, y, 0.032, corners=36), Material((26, 26, 30), 0.02), lift=-5, bevel=2)


def marbled(pen: Pen) -> None:
    n = pen.size
    lay(pen, box(0.5, 0.5, 1.5, 1.5), Material((214, 208, 200), 0.4, "cloud", 0.03))
    bank = noise("cloud", n)
    sides = pen.rng.integers(0, bank.shape[0] - n + 1, 6)
    first = bank[sides[0] : sides[0] + n, sides[1] : sides[1] + n]
    second = bank[sides[2] : sides[2] + n, sides[3] : sides[3] + n]
    third = bank[sides[4] : sides[4] + n, sides[5] : sides[5] + n]
    vein = np.exp(-((first + 0.3 * second) ** 2) * 40) + 0.6 * np.exp(-((second - 0.5 * third) ** 2) * 110)
    tone = np.array((104, 92, 82), np.float32) - 200
    pen.surface.albedo += np.clip(vein, 0, 1)[..., None] * tone * 0.55 + third[..., None] * 4
