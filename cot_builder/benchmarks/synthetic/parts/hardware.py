"""Mechanical parts: nuts, caps, brackets, plates, tubes."""

import numpy as np

from cot_builder.benchmarks.synthetic.parts.materials import BRASS, COPPER, DEEP, DULL_STEEL, PALE, STEEL, pick, ring
from cot_builder.benchmarks.synthetic.surface import (
    Material,
    Pen,
    box,
    curve,
    disc,
    lay,
    next_piece,
    ngon,
    rotate,
    shade_of,
    stroke,
)


def u_block(pen: Pen) -> None:
    outline = np.array(
        [[0.16, 0.16], [0.38, 0.16], [0.38, 0.52], [0.62, 0.52], [0.62, 0.16], [0.84, 0.16], [0.84, 0.84], [0.16, 0.84]]
    )
    lay(pen, outline, shade_of(STEEL, float(pen.rng.uniform(0.85, 1.0))), lift=7, bevel=4)
    for x, y, r in ((0.27, 0.28, 0.05), (0.73, 0.28, 0.05), (0.5, 0.68, 0.065)):
        lay(pen, disc(x, y, r), shade_of(STEEL, 0.8), lift=-4, bevel=3)
        lay(pen, disc(x, y, r * 0.66), DEEP, lift=-6, bevel=1.5)
    for x in (0.27, 0.73):
        if next_piece(pen) is not None:
            lay(pen, ngon(x, 0.72, 0.042, 6), DULL_STEEL, lift=5, bevel=2)
            lay(pen, disc(x, 0.72, 0.021), DEEP, lift=-3, bevel=1)


def plastic_plug(pen: Pen) -> None:
    plastic = Material(pick(pen, (232, 226, 208), (56, 58, 62), (222, 120, 40)), 0.3, "grain", 0.015, 0.1)
    lay(pen, disc(0.5, 0.5, 0.38), plastic, lift=5, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.33, 0.29), shade_of(plastic, 0.95), lift=-2.5, bevel=2.5)
    lay(pen, ring(0.5, 0.5, 0.22, 0.13), plastic, lift=12, bevel=4)
    lay(pen, disc(0.5, 0.5, 0.13), shade_of(plastic, 0.62), lift=-5, bevel=3)
    for k in range(6):
        if next_piece(pen) is not None:
            angle = k * np.pi / 3
            centre = (0.5 + 0.26 * np.cos(angle), 0.5 + 0.26 * np.sin(angle))
            lay(pen, box(*centre, 0.1, 0.028, 0.006, angle), plastic, lift=8, bevel=2)


def zipper(pen: Pen) -> None:
    cloth = Material(pick(pen, (40, 44, 58), (112, 34, 40), (60, 74, 52)), 0.03, "fibre", 0.14, 0.8)
    metal = BRASS if pen.rng.random() < 0.5 else STEEL
    for side in (-1, 1):
        lay(pen, box(0.5 + side * 0.2, 0.5, 0.38, 1.2), cloth, lift=1, bevel=2)
        lay(pen, box(0.5 + side * 0.11, 0.5, 0.045, 1.2), shade_of(cloth, 1.12), lift=3, bevel=4)
        for x in (0.2, 0.34):
            lay(pen, box(0.5 + side * x, 0.5, 0.006, 1.2), shade_of(cloth, 0.75), lift=-1.5, bevel=1)
    lay(pen, box(0.5, 0.5, 0.035, 1.2), Material((24, 24, 26)))
    for k in range(26):
        side = 1 if k % 2 else -1
        y = -0.01 + k * 0.041
        bend = next_piece(pen)
        if bend is not None:
            tooth = [box(0.5 + side * 0.035, y, 0.11, 0.026, 0.008), box(0.5 - side * 0.008, y, 0.038, 0.036, 0.012)]
            for shape in tooth:
                lay(pen, rotate(shape, bend * 1.3, (0.5 + side * 0.08, y)), metal, lift=5, bevel=2)


def nut(pen: Pen, material: Material, turn: float) -> None:
    lay(pen, ngon(0.5, 0.5, 0.4, 6, turn), material, lift=9, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.3, 0.235), shade_of(material, 1.03), lift=3, bevel=3)
    lay(pen, disc(0.5, 0.5, 0.235), shade_of(material, 0.6), lift=-8, bevel=4)
    for k in range(4):
        r = 0.222 - 0.014 * k
        lay(pen, ring(0.5, 0.5, r, r - 0.007), shade_of(material, 0.9), lift=3, bevel=1)
    lay(pen, disc(0.5, 0.5, 0.168), None)


def plastic_nut(pen: Pen) -> None:
    colour = pick(pen, (232, 228, 216), (44, 46, 50), (226, 180, 50))
    nut(pen, Material(colour, 0.3, "grain", 0.015, 0.1), float(pen.rng.uniform(0, 0.3)))


def metal_nut(pen: Pen) -> None:
    metal = Material((150, 145, 138), 0.6, "grain", 0.03, 0.12)
    lobes = [rotate(box(0.5, 0.28, 0.2, 0.26, 0.05), k * np.pi / 2, (0.5, 0.5)) for k in range(4)]
    for lobe in lobes:
        if next_piece(pen) is not None:
            lay(pen, lobe, metal, lift=5, bevel=4)
    lay(pen, disc(0.5, 0.5, 0.26), metal, lift=8, bevel=5, bridge=True)
    lay(pen, ring(0.5, 0.5, 0.2, 0.165), shade_of(metal, 0.75), lift=-3, bevel=2)
    lay(pen, disc(0.5, 0.5, 0.13), None)


def mounts(pen: Pen) -> None:
    plastic = Material(pick(pen, (226, 224, 218), (50, 52, 56), (146, 150, 154)), 0.3, "grain", 0.02, 0.15)
    lay(pen, box(0.5, 0.5, 0.78, 0.5, 0.12), plastic, lift=5, bevel=4)
    lay(pen, box(0.5, 0.5, 0.3, 0.34, 0.03), plastic, lift=10, bevel=4)
    lay(pen, box(0.5, 0.5, 0.18, 0.22, 0.015), shade_of(plastic, 0.45), lift=-8, bevel=2)
    for x in (0.22, 0.78):
        lay(pen, disc(x, 0.5, 0.075), shade_of(plastic, 0.94), lift=-2.5, bevel=2)
        lay(pen, disc(x, 0.5, 0.044), None)
    for k in range(4):
        if next_piece(pen) is not None:
            x, y = 0.32 + 0.36 * (k % 2), 0.34 + 0.32 * (k // 2)
            lay(pen, disc(x, y, 0.03), plastic, lift=7, bevel=3)


def end_cap(pen: Pen) -> None:
    plastic = Material(pick(pen, (44, 44, 48), (120, 124, 128), (222, 220, 214)), 0.25, "grain", 0.02, 0.12)
    lay(pen, box(0.5, 0.5, 0.72, 0.72, 0.07), plastic, lift=7, bevel=5)
    lay(pen, box(0.5, 0.5, 0.54, 0.54, 0.04), shade_of(plastic, 0.75), lift=-6, bevel=4)
    for k in range(4):
        if next_piece(pen) is not None:
            turn = k * np.pi / 2
            lay(pen, rotate(box(0.5, 0.33, 0.024, 0.2, 0.004), turn, (0.5, 0.5)), plastic, lift=6, bevel=2)
    lay(pen, ring(0.5, 0.5, 0.12, 0.075), plastic, lift=7, bevel=3)
    lay(pen, disc(0.5, 0.5, 0.075), DEEP, lift=-4, bevel=2)


def regulator(pen: Pen) -> None:
    body = Material(pick(pen, (56, 58, 62), (36, 70, 120), (190, 192, 194)), 0.35, "grain", 0.02, 0.15)
    lay(pen, box(0.5, 0.5, 0.84, 0.3, 0.03), DULL_STEEL, lift=5, bevel=3)
    for x in (0.14, 0.86):
        if next_piece(pen) is not None:
            lay(pen, ngon(x, 0.5, 0.058, 6, 0.3), BRASS, lift=6, bevel=2.5)
            lay(pen, disc(x, 0.5, 0.026), DEEP, lift=-3, bevel=1)
    lay(pen, disc(0.5, 0.5, 0.28), body, lift=10, bevel=6)
    for k in range(36):
        angle = k * np.pi / 18
        lay(pen, box(0.5 + 0.265 * np.cos(angle), 0.5 + 0.265 * np.sin(angle), 0.04, 0.02, 0.006, angle), body, 4, 1.5)
    lay(pen, disc(0.5, 0.5, 0.205), shade_of(body, 1.12), lift=-2, bevel=3)
    lay(pen, box(0.5, 0.5, 0.3, 0.05, 0.02), body, lift=8, bevel=3)
    for k in range(9):
        angle = np.pi * (0.75 + k * 0.1875)
        lay(pen, box(0.5 + 0.19 * np.cos(angle), 0.5 + 0.19 * np.sin(angle), 0.022, 0.007, 0, angle), PALE)


def rolled_strip_base(pen: Pen) -> None:
    lay(pen, box(0.5, 0.5, 1.3, 0.5), shade_of(STEEL, 0.95), lift=4, bevel=2)
    for side in (-1, 1):
        lay(pen, box(0.5, 0.5 + side * 0.215, 1.3, 0.05, 0), STEEL, lift=7, bevel=5)
        for k in range(8):
            lay(pen, disc(0.06 + k * 0.125, 0.5 + side * 0.15, 0.018, corners=32), DEEP, lift=-3, bevel=1.5)
    for k in range(5):
        if next_piece(pen) is not None:
            lay(pen, box(0.1 + k * 0.2, 0.5, 0.12, 0.13, 0.02), COPPER, lift=6, bevel=3)
            lay(pen, box(0.1 + k * 0.2, 0.5, 0.05, 0.05, 0.01), DULL_STEEL, lift=-3, bevel=1.5)


def fire_hood(pen: Pen) -> None:
    metal = Material(pick(pen, (70, 72, 74), (140, 132, 120), (176, 176, 178)), 0.55, "grain", 0.03, 0.15)
    lay(pen, disc(0.5, 0.5, 0.4), metal, lift=7, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.35, 0.33), shade_of(metal, 0.8), lift=-3, bevel=2)
    for k in range(18):
        angle = k * np.pi / 9
        if next_piece(pen) is not None:
            centre = (0.5 + 0.265 * np.cos(angle), 0.5 + 0.265 * np.sin(angle))
            lay(pen, box(*centre, 0.085, 0.034, 0.016, angle), DEEP, lift=-5, bevel=2)
    lay(pen, disc(0.5, 0.5, 0.17), shade_of(metal, 1.05), lift=16, dome=True)
    lay(pen, disc(0.5, 0.5, 0.03), DEEP, lift=-4, bevel=2)


def bracket_black(pen: Pen) -> None:
    paint = Material((38, 39, 42), 0.4, "grain", 0.06, 0.3)
    outline = np.array([[0.16, 0.12], [0.4, 0.12], [0.4, 0.58], [0.86, 0.6], [0.86, 0.86], [0.16, 0.86]])
    lay(pen, outline, paint, lift=5, bevel=3)
    for k, (x, y) in enumerate(((0.28, 0.2), (0.28, 0.42), (0.54, 0.73), (0.76, 0.73))):
        if next_piece(pen) is not None:
            lay(pen, disc(x, y, 0.058 if k % 2 else 0.045), shade_of(paint, 1.3), lift=-2, bevel=2)
            lay(pen, disc(x, y, 0.045 if k % 2 else 0.032), None)


def metal_plate(pen: Pen) -> None:
    paint = Material(pick(pen, (26, 66, 160), (30, 74, 150)), 0.45, "grain", 0.03, 0.2)
    lay(pen, box(0.5, 0.53, 0.52, 0.72), paint, lift=4, bevel=2)
    for x, y in ((0.24, 0.89), (0.76, 0.89)):
        lay(pen, disc(x, y, 0.05), None)
    lay(pen, disc(0.5, 0.5, 0.085), shade_of(paint, 0.7), lift=-2, bevel=2)
    lay(pen, disc(0.5, 0.5, 0.072), None)
    wire = np.concatenate([[[0.6, -0.1], [0.6, 0.3]], curve((0.6, 0.3), (0.6, 0.42), (0.54, 0.47), 10)[1:]])
    lay(pen, stroke(wire, 0.022), DULL_STEEL, lift=9, dome=True)


def tubes(pen: Pen) -> None:
    for k in range(5):
        x = 0.14 + 0.18 * k
        metal = shade_of(STEEL, float(pen.rng.uniform(0.9, 1.04)))
        lay(pen, box(x, 0.5 + float(pen.rng.uniform(-0.03, 0.03)), 0.15, 0.84, 0.06), metal, lift=40, bevel=17)
