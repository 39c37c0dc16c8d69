"""Household goods and food: caps, toys, beads, sweets, candles, pasta."""

import numpy as np

from cot_builder.benchmarks.synthetic.parts.materials import INK, STEEL, WHITE, pick, pick_text, ring
from cot_builder.benchmarks.synthetic.surface import (
    Colour,
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
    write,
)


def bottle_cap(pen: Pen) -> None:
    body = Material(pick(pen, (196, 38, 44), (34, 92, 170), (228, 178, 40), (40, 134, 84)), 0.35, "grain", 0.02, 0.1)
    lay(pen, disc(0.5, 0.5, 0.37), body, lift=9, bevel=8)
    lay(pen, ring(0.5, 0.5, 0.325, 0.31), shade_of(body, 0.85), lift=-2.5, bevel=1.5)
    lay(pen, disc(0.5, 0.5, 0.21), shade_of(body, 1.04), lift=-1.5, bevel=4)
    points = np.concatenate([ngon(0.5, 0.5, 0.15, 5, -np.pi / 2), ngon(0.5, 0.5, 0.065, 5, -np.pi / 2 + np.pi / 5)])
    lay(pen, points[[0, 5, 1, 6, 2, 7, 3, 8, 4, 9]], shade_of(body, 1.1), lift=3, bevel=2)
    for k in range(48):
        x, y = 0.5 + 0.355 * np.cos(k * np.pi / 24), 0.5 + 0.355 * np.sin(k * np.pi / 24)
        lay(pen, box(x, y, 0.03, 0.012, 0.004, k * np.pi / 24), body, lift=3, bevel=1.5)


def tape(pen: Pen) -> None:
    film = Material(pick(pen, (206, 178, 118), (58, 96, 156), (62, 62, 66), (196, 52, 46)), 0.5, "grain", 0.02)
    lay(pen, ring(0.5, 0.5, 0.39, 0.215), film, lift=7, bevel=3)
    for k in range(11):
        r = 0.225 + k * 0.0148 + float(pen.rng.uniform(-0.0015, 0.0015))
        lay(pen, ring(0.5, 0.5, r + 0.002, r), shade_of(film, 0.82), lift=-0.8, bevel=0.8)
    lay(pen, ring(0.5, 0.5, 0.222, 0.178), Material((168, 138, 100), 0.05, "fibre", 0.06, 0.3), lift=8, bevel=2)
    tail = rotate(np.array([[0.0, -0.392], [0.075, -0.388], [0.08, -0.372], [0.0, -0.376]]), 0.6) + 0.5
    lay(pen, tail, shade_of(film, 1.08), lift=2, bevel=1)


def toy_brick(pen: Pen) -> None:
    plastic = Material(pick(pen, (200, 34, 36), (30, 84, 176), (244, 200, 30), (44, 138, 66)), 0.5, "grain", 0.012)
    lay(pen, box(0.5, 0.5, 0.8, 0.42, 0.012), plastic, lift=6, bevel=3)
    for k in range(8):
        x, y = 0.2 + 0.2 * (k % 4), 0.4 + 0.2 * (k // 4)
        if next_piece(pen) is None:
            lay(pen, disc(x, y, 0.058), shade_of(plastic, 0.82, rough=0.4))
            continue
        lay(pen, disc(x, y, 0.062), plastic, lift=8, bevel=3)
        lay(pen, ring(x, y, 0.047, 0.044), shade_of(plastic, 0.95), lift=0.4, bevel=0.8)
        write(pen, "TOY", x, y, 0.02, shade_of(plastic, 1.03), 1.0)


def eraser(pen: Pen) -> None:
    rubber = Material((238, 236, 230), 0.06, "grain", 0.012, 0.15)
    sleeve = Material(pick(pen, (26, 60, 132), (24, 104, 80), (150, 30, 42)), 0.25, "fibre", 0.02)
    lay(pen, box(0.5, 0.5, 0.82, 0.42, 0.045), rubber, lift=7, bevel=8)
    lay(pen, box(0.6, 0.5, 0.54, 0.428, 0.008), sleeve, lift=2, bevel=1.5)
    lay(pen, box(0.6, 0.355, 0.54, 0.035), Material((232, 232, 228), 0.2))
    lay(pen, box(0.6, 0.645, 0.54, 0.035), Material((30, 30, 32), 0.2))
    write(pen, pick_text(pen, "SOFT", "MONO", "ART"), 0.6, 0.49, 0.1, Material((238, 238, 234), 0.2))
    write(pen, "dust-free eraser", 0.6, 0.58, 0.028, Material((238, 238, 234), 0.2))


def wooden_beads(pen: Pen) -> None:
    colours: list[Colour] = [(188, 142, 92), (168, 118, 70), (204, 164, 112)]
    for k in range(7):
        radius = 0.0 if k == 6 else 0.27
        x, y = 0.5 + radius * np.cos(k * np.pi / 3 + 0.3), 0.5 + radius * np.sin(k * np.pi / 3 + 0.3)
        if next_piece(pen) is None:
            continue
        wood = Material(colours[k % 3], 0.4, "wood", 0.06)
        lay(pen, disc(x, y, 0.125), wood, lift=26, dome=True)
        lay(pen, disc(x + 0.01, y - 0.006, 0.028), Material((58, 38, 22), 0.05), lift=-5, bevel=1.5)


def mint(pen: Pen) -> None:
    sugar = Material(pick(pen, (236, 238, 236), (208, 232, 222), (236, 222, 226)), 0.1, "grain", 0.015, 0.25)
    for k in range(4):
        x, y = 0.3 + 0.4 * (k % 2), 0.3 + 0.4 * (k // 2)
        x, y = x + float(pen.rng.uniform(-0.02, 0.02)), y + float(pen.rng.uniform(-0.02, 0.02))
        if next_piece(pen) is None:
            continue
        lay(pen, ring(x, y, 0.165, 0.055), sugar, lift=11, bevel=9)
        for text, angle in (("M", -1.9), ("I", -1.55), ("N", -1.2), ("T", -0.85)):
            at = (x + 0.112 * np.cos(angle - 0.19), y + 0.112 * np.sin(angle - 0.19))
            write(pen, text, *at, 0.036, shade_of(sugar, 0.96), -1.6, angle + np.pi / 2 - 0.19)


def vcpill(pen: Pen) -> None:
    left = Material(pick(pen, (236, 160, 40), (214, 60, 50), (240, 206, 60)), 0.6, "grain", 0.01)
    lay(pen, box(0.5, 0.5, 0.8, 0.3, 0.15), left, lift=40, dome=True)
    whole = box(0.69, 0.5, 0.42, 0.31, 0.155)
    lay(
        pen,
        np.stack([np.maximum(whole[:, 0], 0.51), whole[:, 1]], 1),
        shade_of(WHITE, 1.0, gloss=0.6),
        lift=1.2,
        bevel=1,
    )
    write(pen, pick_text(pen, "VC 500", "C 100", "V-C 12"), 0.32, 0.5, 0.045, INK)


def woodstick(pen: Pen) -> None:
    wood = Material(pick(pen, (214, 178, 128), (222, 190, 144), (200, 160, 108)), 0.1, "wood", 0.055, 0.3)
    for k in range(4):
        y = 0.2 + 0.2 * k + float(pen.rng.uniform(-0.01, 0.01))
        tone = float(pen.rng.uniform(0.94, 1.04))
        if next_piece(pen) is not None:
            lay(pen, box(0.5, y, 0.9, 0.13, 0.06), shade_of(wood, tone), lift=6, bevel=3)


def toothbrush(pen: Pen) -> None:
    plastic = Material(pick(pen, (238, 240, 240), (120, 190, 214), (232, 150, 170)), 0.5, "grain", 0.01)
    lay(pen, box(0.5, 0.93, 0.13, 0.4, 0.05), plastic, lift=12, bevel=9)
    lay(pen, box(0.5, 0.42, 0.33, 0.7, 0.15), plastic, lift=7, bevel=6)
    tufts: list[Colour] = [(244, 246, 246), (70, 130, 200), (244, 246, 246)]
    for k in range(30):
        row, column = divmod(k, 3)
        x = 0.41 + 0.09 * column + (0.012 if row % 2 else 0)
        y = 0.15 + 0.06 * row
        lay(pen, disc(x, y, 0.03, corners=32), Material((70, 74, 78)), lift=-2, bevel=1.5)
        wander = float(pen.rng.uniform(-0.004, 0.004))
        bend = next_piece(pen)
        if bend is None:
            continue
        bristle = Material(tufts[(row // 2) % 3], 0.12, "fibre", 0.12, 1.6)
        x, y = x + bend * 0.06, y + wander
        lay(pen, disc(x, y, 0.036, 0.031, corners=32), bristle, lift=9, bevel=4)


def toy(pen: Pen) -> None:
    fur = Material(pick(pen, (150, 100, 60), (240, 196, 60), (210, 120, 140)), 0.45, "grain", 0.015)
    muzzle, eye = Material((240, 224, 196), 0.45), Material((24, 22, 24), 0.9)
    for x in (0.24, 0.76):
        if next_piece(pen) is not None:
            lay(pen, disc(x, 0.22, 0.11), fur, lift=20, dome=True)
            lay(pen, disc(x, 0.22, 0.06), muzzle, lift=-3, bevel=3)
    lay(pen, disc(0.5, 0.53, 0.36, 0.34), fur, lift=45, dome=True)
    lay(pen, disc(0.5, 0.65, 0.16, 0.12), muzzle, lift=12, dome=True)
    for x in (0.37, 0.63):
        if next_piece(pen) is not None:
            lay(pen, disc(x, 0.45, 0.038), eye, lift=8, dome=True)
            lay(pen, disc(x - 0.01, 0.438, 0.009, corners=20), WHITE)
    if next_piece(pen) is not None:
        lay(pen, disc(0.5, 0.6, 0.045, 0.034), eye, lift=10, dome=True)
    lay(pen, stroke(curve((0.44, 0.68), (0.5, 0.735), (0.56, 0.68)), 0.009), INK)


def porcelain_doll(pen: Pen) -> None:
    glaze = Material((236, 232, 226), 0.9, "grain", 0.006)
    dress = Material(pick(pen, (60, 98, 170), (190, 70, 80), (80, 140, 110)), 0.85, "grain", 0.01)
    lay(
        pen, np.array([[0.41, 0.42], [0.59, 0.42], [0.78, 0.9], [0.68, 0.94], [0.32, 0.94], [0.22, 0.9]]), dress, 26, 22
    )
    for side in (-1, 1):
        arm = curve((0.5 + side * 0.09, 0.46), (0.5 + side * 0.26, 0.52), (0.5 + side * 0.24, 0.68))
        lay(pen, stroke(arm, 0.07), glaze, lift=14, dome=True)
    for k in range(5):
        lay(pen, disc(0.34 + 0.08 * k, 0.87, 0.028, corners=40), glaze, lift=3, bevel=3)
    lay(pen, disc(0.5, 0.27, 0.16, 0.17), glaze, lift=34, dome=True)
    hair = [disc(0.5, 0.22, 0.172, 0.15), disc(0.5, 0.28, 0.14, 0.135)]
    lay(pen, hair, Material((70, 44, 28), 0.8), lift=6, bevel=5)
    for x in (0.445, 0.555):
        lay(pen, disc(x, 0.27, 0.014, 0.018, corners=28), INK)
    lay(pen, stroke(curve((0.47, 0.345), (0.5, 0.362), (0.53, 0.345)), 0.009), Material((190, 50, 56), 0.8))


def candle(pen: Pen) -> None:
    wax = Material(pick(pen, (238, 236, 226), (232, 228, 210)), 0.25, "cloud", 0.012, 0.12)
    for k in range(4):
        x = 0.27 + 0.46 * (k % 2) + float(pen.rng.uniform(-0.012, 0.012))
        y = 0.29 + 0.42 * (k // 2) + float(pen.rng.uniform(-0.012, 0.012))
        lay(pen, disc(x, y, 0.182), STEEL, lift=9, bevel=3)
        for spoke in range(40):
            angle = spoke * np.pi / 20
            lay(pen, box(x + 0.174 * np.cos(angle), y + 0.174 * np.sin(angle), 0.018, 0.008, 0, angle), STEEL, 2.5, 1)
        lay(pen, disc(x, y, 0.163), wax, lift=-4, bevel=3)
        lay(pen, disc(x, y, 0.05), shade_of(wax, 0.97), lift=-1.5, bevel=9)
        lean = float(pen.rng.uniform(-0.02, 0.02))
        if next_piece(pen) is not None:
            wick = curve((x, y), (x + lean, y - 0.02), (x + 2 * lean, y - 0.035), 8)
            lay(pen, stroke(wick, 0.014), Material((206, 196, 176), 0.02, "fibre", 0.1), lift=7, bevel=2)
            lay(pen, disc(wick[-1, 0], wick[-1, 1], 0.008, corners=20), Material((60, 52, 46)))


def macaroni(pen: Pen) -> None:
    for k in range(4):
        x = 0.27 + 0.46 * (k % 2) + float(pen.rng.uniform(-0.02, 0.02))
        y = 0.29 + 0.42 * (k // 2) + float(pen.rng.uniform(-0.02, 0.02))
        dough = shade_of(Material((226, 172, 84), 0.25, "cloud", 0.02, 0.15), float(pen.rng.uniform(0.94, 1.05)))
        arc = curve((-0.15, 0.06), (0.0, -0.15), (0.15, 0.06), 30)
        turn = float(pen.rng.uniform(-0.5, 0.5))
        lay(pen, rotate(stroke(arc, 0.105), turn) + (x, y), dough, lift=22, dome=True)
        for offset in (-0.03, -0.01, 0.012, 0.033):
            line = stroke(arc + (0, offset), 0.005)
            lay(pen, rotate(line, turn) + (x, y), shade_of(dough, 0.95), lift=-0.8, bevel=1, opacity=0.8)
        hole = rotate(disc(0.147, 0.062, 0.02, 0.032, 40), turn) + (x, y)
        lay(pen, hole, Material((116, 74, 28), 0.05), lift=-6, bevel=2)
