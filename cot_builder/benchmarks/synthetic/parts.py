"""Procedural parts and textures: one function draws one kind of part that a person would recognise by its name."""

from collections.abc import Callable

import cv2
import numpy as np

from cot_builder.benchmarks.synthetic.surface import (
    Colour,
    Material,
    Pen,
    Surface,
    box,
    curve,
    disc,
    lay,
    ngon,
    noise,
    piece,
    rotate,
    shade_of,
    stroke,
    write,
)

Draw = Callable[[Pen], None]

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
    """One of the colours."""
    return colours[int(pen.rng.integers(len(colours)))]


def ring(x: float, y: float, outer: float, inner: float) -> list[np.ndarray]:
    """The outline of a flat ring."""
    return [disc(x, y, outer), disc(x, y, inner)]


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


def button_battery(pen: Pen) -> None:
    lay(pen, disc(0.5, 0.5, 0.38), shade_of(STEEL, 0.92), lift=4, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.335, 0.322), Material((72, 74, 78), 0.2), lift=-3, bevel=1.5)
    lay(pen, disc(0.5, 0.5, 0.322), STEEL, lift=3, bevel=3)
    engraved = Material((112, 113, 116), 0.4)
    write(pen, pick_text(pen, "CR2032", "CR2025", "CR2450"), 0.5, 0.5, 0.052, engraved, -1.2)
    write(pen, "3V", 0.5, 0.6, 0.045, engraved, -1.2)
    write(pen, "LITHIUM CELL", 0.5, 0.405, 0.03, engraved, -1.0)
    write(pen, "+", 0.5, 0.29, 0.085, engraved, -1.4)


def pick_text(pen: Pen, *texts: str) -> str:
    """One of the texts."""
    return texts[int(pen.rng.integers(len(texts)))]


def chip(pen: Pen, x: float, y: float, w: float, h: float, pins: int, text: str, turn: float = 0.0) -> None:
    """A chip in a package with two rows of pins, turned by radians about its middle."""
    for side in (-1, 1):
        for k in range(pins):
            at = rotate(np.array([[(k + 0.5) / pins * w - w / 2, side * (h / 2 + 0.008)]]), turn)[0]
            lay(pen, box(x + at[0], y + at[1], w / pins * 0.45, 0.026, 0, turn), SOLDER, lift=2, bevel=1)
    lay(pen, box(x, y, w, h, 0.005, turn), BLACK, lift=6, bevel=2)
    dot = rotate(np.array([[-w / 2 + 0.016, h / 2 - 0.016]]), turn)[0]
    lay(pen, disc(x + dot[0], y + dot[1], 0.006, corners=20), DEEP, lift=-1, bevel=1)
    write(pen, text, x, y, min(h * 0.22, 0.026), Material((150, 150, 150)), 0, turn)


def passive(pen: Pen, x: float, y: float, turn: float, body: Material) -> None:
    """A two-ended component with soldered ends."""
    end = rotate(np.array([[0.02, 0.0]]), turn)[0]
    for sign in (-1, 1):
        lay(pen, box(x + sign * end[0], y + sign * end[1], 0.016, 0.028, 0.003, turn), SOLDER, lift=2.5, bevel=1.5)
    lay(pen, box(x, y, 0.03, 0.025, 0.002, turn), body, lift=4, bevel=1.2)


def pcb(pen: Pen) -> None:
    mask = Material(pick(pen, (24, 92, 58), (22, 62, 118), (30, 104, 50)), 0.35, "grain", 0.03, 0.12)
    trace, silk = shade_of(mask, 1.4), Material((216, 220, 214), 0.1)
    lay(pen, box(0.5, 0.5, 0.8, 0.62, 0.02), mask, lift=3, bevel=2)
    rng = pen.rng
    for _ in range(26):
        x, y = rng.uniform(0.14, 0.8), rng.uniform(0.23, 0.77)
        bend = rng.choice([-1, 1]) * rng.uniform(0.03, 0.09)
        x2 = min(x + rng.uniform(0.08, 0.3), 0.88)
        y2 = float(np.clip(y + bend, 0.22, 0.78))
        path = np.array([[x, y], [(x + x2) / 2 - abs(bend) / 2, y], [(x + x2) / 2 + abs(bend) / 2, y2], [x2, y2]])
        lay(pen, stroke(path, 0.006), trace, lift=0.8, bevel=0.8)
        for via in (path[0], path[-1]):
            lay(pen, disc(via[0], via[1], 0.0075, corners=24), GOLD, lift=0.6, bevel=0.8)
            lay(pen, disc(via[0], via[1], 0.003, corners=12), DEEP, lift=-1, bevel=0.6)
    for x, y in ((0.14, 0.235), (0.86, 0.235), (0.14, 0.765), (0.86, 0.765)):
        lay(pen, ring(x, y, 0.028, 0.017), GOLD, lift=0.8, bevel=1)
        lay(pen, disc(x, y, 0.017), None)
    for k in range(10):
        if piece(pen) is not None:
            lay(pen, box(0.24 + k * 0.045, 0.765, 0.024, 0.03, 0.003), GOLD, lift=1.5, bevel=1)
    for x, y, w, h, pins in ((0.36, 0.44, 0.2, 0.13, 8), (0.67, 0.6, 0.15, 0.1, 6)):
        lay(pen, [box(x, y, w + 0.02, h + 0.075), box(x, y, w + 0.013, h + 0.068)], silk)
        text = pick_text(pen, "74HC595", "ATM328", "LM2904", "STC15W")
        bend = piece(pen)
        if bend is not None:
            chip(pen, x, y, w, h, pins, text, bend * 0.4)
    brown, dark = Material((150, 118, 82), 0.2), Material((44, 44, 48), 0.25)
    for k in range(9):
        x, y = 0.57 + 0.075 * (k % 4), 0.3 + 0.075 * (k // 4)
        bend = piece(pen)
        lay(pen, [box(x, y, 0.066, 0.042), box(x, y, 0.06, 0.036)], silk, opacity=0.8)
        if bend is not None:
            passive(pen, x, y, bend, brown if k % 2 else dark)
    bend = piece(pen)
    if bend is not None:
        shift = bend * 0.08
        lay(pen, disc(0.24 + shift, 0.62, 0.06), Material((52, 56, 76), 0.4), lift=7, bevel=4)
        lay(pen, disc(0.24 + shift, 0.62, 0.049), STEEL, lift=-1, bevel=2)
        lay(pen, stroke(np.array([[0.24 + shift, 0.58], [0.24 + shift, 0.66]]), 0.004), INK, lift=-1, bevel=0.8)
    write(pen, pick_text(pen, "REV 1.2", "REV 2.0", "V3.1"), 0.43, 0.64, 0.03, silk)


def strip_board(pen: Pen) -> None:
    board = Material((186, 146, 92), 0.12, "fibre", 0.03, 0.1)
    lay(pen, box(0.5, 0.5, 1.3, 1.3), board)
    for i in range(9):
        for j in range(9):
            x, y = 0.1 + i * 0.1, 0.1 + j * 0.1
            lay(pen, disc(x, y, 0.03, corners=36), COPPER, lift=0.7, bevel=1)
            lay(pen, disc(x, y, 0.013, corners=24), DEEP, lift=-1.5, bevel=1)
    transistor(pen)
    pen.surface.area = (0.31, 0.36, 0.69, 0.6)


def transistor(pen: Pen) -> None:
    for k in range(3):
        x = 0.4 + 0.1 * k
        bend = piece(pen)
        root = (x, 0.6)
        if bend is None:
            lay(pen, box(x, 0.61, 0.026, 0.05), SOLDER, lift=4, bevel=1.5)
            continue
        leg = np.array([[x, 0.58], [x, 0.7], [x, 0.78], [x, 0.9]])
        bent = leg if not bend else np.concatenate([leg[:1], rotate(leg[1:], -bend, root)])
        lay(pen, stroke(bent[:2], 0.04), SOLDER, lift=4, bevel=1.5, bridge=True)
        lay(pen, stroke(bent[1:], 0.024), SOLDER, lift=3.5, bevel=1.5, bridge=True)
    lay(pen, box(0.5, 0.27, 0.4, 0.28, 0.02), STEEL, lift=4, bevel=2, bridge=True)
    lay(pen, disc(0.5, 0.23, 0.065), Material((70, 68, 66), 0.05), lift=-4, bevel=1.5)
    lay(pen, box(0.5, 0.48, 0.4, 0.27, 0.012), BLACK, lift=9, bevel=4, bridge=True)
    lay(pen, disc(0.36, 0.56, 0.018), shade_of(BLACK, 0.8), lift=-2, bevel=1.5)
    laser = Material((138, 138, 140), 0.15)
    write(pen, pick_text(pen, "TIP122", "IRF540", "LM317"), 0.5, 0.45, 0.042, laser)
    write(pen, "K7 203", 0.5, 0.53, 0.034, laser)


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
        if piece(pen) is None:
            lay(pen, disc(x, y, 0.058), shade_of(plastic, 0.82, rough=0.4))
            continue
        lay(pen, disc(x, y, 0.062), plastic, lift=8, bevel=3)
        lay(pen, ring(x, y, 0.047, 0.044), shade_of(plastic, 0.95), lift=0.4, bevel=0.8)
        write(pen, "TOY", x, y, 0.02, shade_of(plastic, 1.03), 1.0)


def u_block(pen: Pen) -> None:
    outline = np.array(
        [[0.16, 0.16], [0.38, 0.16], [0.38, 0.52], [0.62, 0.52], [0.62, 0.16], [0.84, 0.16], [0.84, 0.84], [0.16, 0.84]]
    )
    lay(pen, outline, shade_of(STEEL, float(pen.rng.uniform(0.85, 1.0))), lift=7, bevel=4)
    for x, y, r in ((0.27, 0.28, 0.05), (0.73, 0.28, 0.05), (0.5, 0.68, 0.065)):
        lay(pen, disc(x, y, r), shade_of(STEEL, 0.8), lift=-4, bevel=3)
        lay(pen, disc(x, y, r * 0.66), DEEP, lift=-6, bevel=1.5)
    for x in (0.27, 0.73):
        if piece(pen) is not None:
            lay(pen, ngon(x, 0.72, 0.042, 6), DULL_STEEL, lift=5, bevel=2)
            lay(pen, disc(x, 0.72, 0.021), DEEP, lift=-3, bevel=1)


def usb(pen: Pen) -> None:
    rubber = Material(pick(pen, (40, 40, 44), (222, 222, 220), (52, 74, 110)), 0.18, "grain", 0.03, 0.2)
    lay(pen, box(0.5, 0.93, 0.1, 0.26), rubber, lift=8, bevel=8)
    lay(pen, box(0.5, 0.69, 0.34, 0.27, 0.05), rubber, lift=9, bevel=5)
    for k in range(4):
        lay(pen, box(0.5, 0.76 + 0.022 * k, 0.25 - 0.02 * k, 0.007, 0.003), shade_of(rubber, 0.8), lift=-2, bevel=1)
    bend = piece(pen) or 0.0
    turn = bend * 0.35
    around = (0.5, 0.56)
    lay(pen, rotate(box(0.5, 0.355, 0.3, 0.42, 0.008), turn, around), STEEL, lift=7, bevel=3)
    lay(
        pen, rotate(stroke(np.array([[0.5, 0.15], [0.5, 0.56]]), 0.004), turn, around), DULL_STEEL, lift=-1.5, bevel=0.8
    )
    for x in (0.43, 0.57):
        if piece(pen) is not None:
            window = rotate(box(x, 0.27, 0.055, 0.07, 0.004), turn, around)
            lay(pen, window, DEEP, lift=-4, bevel=1)
            lay(pen, rotate(box(x, 0.285, 0.032, 0.03, 0.003), turn, around), WHITE)
    lay(pen, rotate(box(0.5, 0.47, 0.05, 0.06, 0.02), turn, around), DULL_STEEL, lift=-1.5, bevel=1.5)
    symbol = shade_of(rubber, 1.5 if rubber.colour[0] < 120 else 0.75)
    lay(pen, disc(0.5, 0.67, 0.018), symbol)
    lay(pen, stroke(np.array([[0.5, 0.615], [0.5, 0.725]]), 0.007), symbol)


def plastic_plug(pen: Pen) -> None:
    plastic = Material(pick(pen, (232, 226, 208), (56, 58, 62), (222, 120, 40)), 0.3, "grain", 0.015, 0.1)
    lay(pen, disc(0.5, 0.5, 0.38), plastic, lift=5, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.33, 0.29), shade_of(plastic, 0.95), lift=-2.5, bevel=2.5)
    lay(pen, ring(0.5, 0.5, 0.22, 0.13), plastic, lift=12, bevel=4)
    lay(pen, disc(0.5, 0.5, 0.13), shade_of(plastic, 0.62), lift=-5, bevel=3)
    for k in range(6):
        if piece(pen) is not None:
            angle = k * np.pi / 3
            centre = (0.5 + 0.26 * np.cos(angle), 0.5 + 0.26 * np.sin(angle))
            lay(pen, box(*centre, 0.1, 0.028, 0.006, angle), plastic, lift=8, bevel=2)


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
        if piece(pen) is None:
            continue
        wood = Material(colours[k % 3], 0.4, "wood", 0.06)
        lay(pen, disc(x, y, 0.125), wood, lift=26, dome=True)
        lay(pen, disc(x + 0.01, y - 0.006, 0.028), Material((58, 38, 22), 0.05), lift=-5, bevel=1.5)


def terminalblock(pen: Pen) -> None:
    plastic = Material(pick(pen, (34, 132, 76), (30, 96, 160), (60, 62, 66)), 0.3, "grain", 0.02, 0.15)
    lay(pen, box(0.5, 0.5, 0.84, 0.5, 0.01), plastic, lift=8, bevel=3)
    lay(pen, box(0.5, 0.675, 0.84, 0.1), shade_of(plastic, 0.86), lift=-3, bevel=2)
    for k in range(5):
        x = 0.165 + 0.1675 * k
        lay(pen, disc(x, 0.43, 0.066), shade_of(plastic, 0.5), lift=-5, bevel=2)
        lay(pen, box(x, 0.675, 0.09, 0.065, 0.006), DEEP, lift=-4, bevel=1.5)
        turn = float(pen.rng.uniform(0, np.pi))
        if piece(pen) is not None:
            lay(pen, disc(x, 0.43, 0.055), STEEL, lift=5, bevel=3)
            lay(pen, box(x, 0.43, 0.1, 0.014, 0, turn), DEEP, lift=-2, bevel=1)
        if k:
            lay(pen, box(x - 0.084, 0.5, 0.008, 0.5), shade_of(plastic, 0.75), lift=-2, bevel=1)
        write(pen, str(k + 1), x, 0.305, 0.032, PALE)


def mint(pen: Pen) -> None:
    sugar = Material(pick(pen, (236, 238, 236), (208, 232, 222), (236, 222, 226)), 0.1, "grain", 0.015, 0.25)
    for k in range(4):
        x, y = 0.3 + 0.4 * (k % 2), 0.3 + 0.4 * (k // 2)
        x, y = x + float(pen.rng.uniform(-0.02, 0.02)), y + float(pen.rng.uniform(-0.02, 0.02))
        if piece(pen) is None:
            continue
        lay(pen, ring(x, y, 0.165, 0.055), sugar, lift=11, bevel=9)
        for text, angle in (("M", -1.9), ("I", -1.55), ("N", -1.2), ("T", -0.85)):
            at = (x + 0.112 * np.cos(angle - 0.19), y + 0.112 * np.sin(angle - 0.19))
            write(pen, text, *at, 0.036, shade_of(sugar, 0.96), -1.6, angle + np.pi / 2 - 0.19)


def phone_battery(pen: Pen) -> None:
    foil = Material(pick(pen, (54, 56, 60), (206, 208, 210), (42, 46, 58)), 0.45, "grain", 0.02, 0.12)
    dark = foil.colour[0] < 120
    print_ = Material((220, 220, 220) if dark else (44, 44, 48), 0.2)
    lay(pen, box(0.5, 0.53, 0.58, 0.74, 0.03), foil, lift=6, bevel=7)
    lay(pen, box(0.5, 0.178, 0.56, 0.05, 0.006), Material((58, 92, 58), 0.3), lift=4, bevel=2)
    for k in range(4):
        if piece(pen) is not None:
            lay(pen, box(0.38 + 0.08 * k, 0.178, 0.05, 0.032, 0.004), GOLD, lift=2, bevel=1)
    write(pen, "Li-ion Polymer", 0.5, 0.33, 0.036, print_)
    write(pen, pick_text(pen, "3.85V  4000mAh", "3.82V  3260mAh", "3.87V  5000mAh"), 0.5, 0.42, 0.032, print_)
    for k, text in enumerate(("MODEL BN-57", "LIMIT 4.40V", "DO NOT DISASSEMBLE")):
        write(pen, text, 0.5, 0.54 + 0.05 * k, 0.022, print_)
    for k in range(34):
        if pen.rng.random() < 0.6:
            lay(pen, box(0.3 + 0.012 * k, 0.78, 0.007, 0.07), print_)


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
        bend = piece(pen)
        if bend is not None:
            tooth = [box(0.5 + side * 0.035, y, 0.11, 0.026, 0.008), box(0.5 - side * 0.008, y, 0.038, 0.036, 0.012)]
            for shape in tooth:
                lay(pen, rotate(shape, bend * 1.3, (0.5 + side * 0.08, y)), metal, lift=5, bevel=2)


def switch(pen: Pen) -> None:
    lay(pen, box(0.5, 0.5, 0.66, 0.5, 0.02), BLACK, lift=5, bevel=4)
    lay(pen, box(0.5, 0.5, 0.52, 0.36, 0.012), DEEP, lift=-3, bevel=2)
    rocker = Material(pick(pen, (178, 30, 32), (36, 38, 42), (40, 110, 60)), 0.5, "grain", 0.015)
    lay(pen, box(0.375, 0.5, 0.24, 0.33, 0.01), shade_of(rocker, 1.06), lift=8, bevel=6)
    lay(pen, box(0.625, 0.5, 0.24, 0.33, 0.01), shade_of(rocker, 0.86), lift=4, bevel=6)
    lay(pen, stroke(np.array([[0.375, 0.45], [0.375, 0.55]]), 0.014), PALE)
    lay(pen, ring(0.625, 0.5, 0.045, 0.03), PALE)
    for k in range(3):
        bend = piece(pen)
        if bend is not None:
            blade = rotate(box(0.3 + 0.2 * k, 0.82, 0.055, 0.15, 0.008), bend, (0.3 + 0.2 * k, 0.75))
            lay(pen, blade, BRASS, lift=3, bevel=1.5)
            lay(pen, disc(0.3 + 0.2 * k - bend * 0.07, 0.845, 0.013, corners=28), DEEP, lift=-2, bevel=1)


def audiojack(pen: Pen) -> None:
    body = Material(pick(pen, (36, 36, 40), (214, 212, 208), (120, 30, 36)), 0.3, "grain", 0.02, 0.15)
    lay(pen, box(0.06, 0.5, 0.2, 0.1), body, lift=9, dome=True)
    lay(pen, box(0.28, 0.5, 0.36, 0.22, 0.05), body, lift=26, dome=True)
    for k in range(6):
        lay(pen, box(0.17 + 0.022 * k, 0.5, 0.008, 0.2, 0.003), shade_of(body, 0.75), lift=-2, bevel=1)
    bend = (piece(pen) or 0.0) * 0.35
    around = (0.46, 0.5)
    pin = rotate(box(0.645, 0.5, 0.4, 0.105, 0.01), bend, around)
    lay(pen, pin, GOLD, lift=18, dome=True)
    for k in range(3):
        if piece(pen) is not None:
            lay(pen, rotate(box(0.6 + 0.085 * k, 0.5, 0.016, 0.106), bend, around), BLACK, lift=-1.5, bevel=1)
    tip = np.array([[0.83, 0.448], [0.87, 0.462], [0.885, 0.45], [0.93, 0.485], [0.93, 0.515], [0.885, 0.55]])
    tip = np.concatenate([tip, [[0.87, 0.538], [0.83, 0.552]]])
    lay(pen, rotate(tip, bend, around), GOLD, lift=15, dome=True)


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
        if piece(pen) is not None:
            lay(pen, lobe, metal, lift=5, bevel=4)
    lay(pen, disc(0.5, 0.5, 0.26), metal, lift=8, bevel=5, bridge=True)
    lay(pen, ring(0.5, 0.5, 0.2, 0.165), shade_of(metal, 0.75), lift=-3, bevel=2)
    lay(pen, disc(0.5, 0.5, 0.13), None)


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
        if piece(pen) is not None:
            lay(pen, box(0.5, y, 0.9, 0.13, 0.06), shade_of(wood, tone), lift=6, bevel=3)


def mounts(pen: Pen) -> None:
    plastic = Material(pick(pen, (226, 224, 218), (50, 52, 56), (146, 150, 154)), 0.3, "grain", 0.02, 0.15)
    lay(pen, box(0.5, 0.5, 0.78, 0.5, 0.12), plastic, lift=5, bevel=4)
    lay(pen, box(0.5, 0.5, 0.3, 0.34, 0.03), plastic, lift=10, bevel=4)
    lay(pen, box(0.5, 0.5, 0.18, 0.22, 0.015), shade_of(plastic, 0.45), lift=-8, bevel=2)
    for x in (0.22, 0.78):
        lay(pen, disc(x, 0.5, 0.075), shade_of(plastic, 0.94), lift=-2.5, bevel=2)
        lay(pen, disc(x, 0.5, 0.044), None)
    for k in range(4):
        if piece(pen) is not None:
            x, y = 0.32 + 0.36 * (k % 2), 0.34 + 0.32 * (k // 2)
            lay(pen, disc(x, y, 0.03), plastic, lift=7, bevel=3)


def end_cap(pen: Pen) -> None:
    plastic = Material(pick(pen, (44, 44, 48), (120, 124, 128), (222, 220, 214)), 0.25, "grain", 0.02, 0.12)
    lay(pen, box(0.5, 0.5, 0.72, 0.72, 0.07), plastic, lift=7, bevel=5)
    lay(pen, box(0.5, 0.5, 0.54, 0.54, 0.04), shade_of(plastic, 0.75), lift=-6, bevel=4)
    for k in range(4):
        if piece(pen) is not None:
            turn = k * np.pi / 2
            lay(pen, rotate(box(0.5, 0.33, 0.024, 0.2, 0.004), turn, (0.5, 0.5)), plastic, lift=6, bevel=2)
    lay(pen, ring(0.5, 0.5, 0.12, 0.075), plastic, lift=7, bevel=3)
    lay(pen, disc(0.5, 0.5, 0.075), DEEP, lift=-4, bevel=2)


def regulator(pen: Pen) -> None:
    body = Material(pick(pen, (56, 58, 62), (36, 70, 120), (190, 192, 194)), 0.35, "grain", 0.02, 0.15)
    lay(pen, box(0.5, 0.5, 0.84, 0.3, 0.03), DULL_STEEL, lift=5, bevel=3)
    for x in (0.14, 0.86):
        if piece(pen) is not None:
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
        if piece(pen) is not None:
            lay(pen, box(0.1 + k * 0.2, 0.5, 0.12, 0.13, 0.02), COPPER, lift=6, bevel=3)
            lay(pen, box(0.1 + k * 0.2, 0.5, 0.05, 0.05, 0.01), DULL_STEEL, lift=-3, bevel=1.5)


def sim_card_set(pen: Pen) -> None:
    plastic = Material((232, 232, 230), 0.3, "grain", 0.008)
    print_ = Material(pick(pen, (26, 92, 160), (190, 40, 50), (60, 140, 60)), 0.3)
    lay(pen, box(0.5, 0.5, 0.88, 0.56, 0.035), plastic, lift=3, bevel=1.5)
    lay(pen, box(0.5, 0.265, 0.88, 0.09), print_, opacity=0.95)
    for inset in (0.0, 0.035, 0.065):
        outline = [
            box(0.33, 0.55, 0.3 - inset, 0.3 - inset, 0.015),
            box(0.33, 0.55, 0.292 - inset, 0.292 - inset, 0.013),
        ]
        lay(pen, outline, Material((150, 150, 150), 0.1), lift=-1.5, bevel=1)
    lay(pen, box(0.33, 0.55, 0.16, 0.15, 0.02), GOLD, lift=0.8, bevel=1)
    for x in (0.29, 0.37):
        lay(pen, box(x, 0.55, 0.005, 0.15), Material((110, 88, 40), 0.2), lift=-0.8, bevel=0.7)
    for y in (0.525, 0.575):
        lay(pen, box(0.33, y, 0.16, 0.005), Material((110, 88, 40), 0.2), lift=-0.8, bevel=0.7)
    write(pen, pick_text(pen, "4G LTE", "5G NANO", "SIM+"), 0.68, 0.42, 0.06, print_)
    write(pen, "8986 0112 8471", 0.68, 0.68, 0.032, INK)


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
        bend = piece(pen)
        if bend is None:
            continue
        bristle = Material(tufts[(row // 2) % 3], 0.12, "fibre", 0.12, 1.6)
        x, y = x + bend * 0.06, y + wander
        lay(pen, disc(x, y, 0.036, 0.031, corners=32), bristle, lift=9, bevel=4)


def toy(pen: Pen) -> None:
    fur = Material(pick(pen, (150, 100, 60), (240, 196, 60), (210, 120, 140)), 0.45, "grain", 0.015)
    muzzle, eye = Material((240, 224, 196), 0.45), Material((24, 22, 24), 0.9)
    for x in (0.24, 0.76):
        if piece(pen) is not None:
            lay(pen, disc(x, 0.22, 0.11), fur, lift=20, dome=True)
            lay(pen, disc(x, 0.22, 0.06), muzzle, lift=-3, bevel=3)
    lay(pen, disc(0.5, 0.53, 0.36, 0.34), fur, lift=45, dome=True)
    lay(pen, disc(0.5, 0.65, 0.16, 0.12), muzzle, lift=12, dome=True)
    for x in (0.37, 0.63):
        if piece(pen) is not None:
            lay(pen, disc(x, 0.45, 0.038), eye, lift=8, dome=True)
            lay(pen, disc(x - 0.01, 0.438, 0.009, corners=20), WHITE)
    if piece(pen) is not None:
        lay(pen, disc(0.5, 0.6, 0.045, 0.034), eye, lift=10, dome=True)
    lay(pen, stroke(curve((0.44, 0.68), (0.5, 0.735), (0.56, 0.68)), 0.009), INK)


def usb_adaptor(pen: Pen) -> None:
    shell = Material(pick(pen, (234, 234, 232), (40, 42, 46)), 0.5, "grain", 0.008)
    for x in (0.39, 0.61):
        lay(pen, box(x, 0.14, 0.055, 0.2, 0.01), STEEL, lift=5, bevel=2)
        lay(pen, disc(x, 0.085, 0.014, corners=28), DEEP, lift=-2, bevel=1)
    lay(pen, box(0.5, 0.56, 0.6, 0.66, 0.09), shell, lift=12, bevel=12)
    text = shade_of(shell, 0.6) if shell.colour[0] > 120 else shade_of(shell, 2.6)
    for k, line in enumerate(("POWER ADAPTER", "INPUT 100-240V", "OUTPUT 5V 2A")):
        write(pen, line, 0.5, 0.45 + 0.06 * k, 0.03, text)
    lay(pen, box(0.5, 0.79, 0.26, 0.11, 0.008), STEEL, lift=-2, bevel=2)
    lay(pen, box(0.5, 0.79, 0.24, 0.09, 0.004), DEEP, lift=-5, bevel=1.5)
    lay(pen, box(0.5, 0.805, 0.2, 0.035, 0.002), WHITE, lift=3, bevel=1)


def fire_hood(pen: Pen) -> None:
    metal = Material(pick(pen, (70, 72, 74), (140, 132, 120), (176, 176, 178)), 0.55, "grain", 0.03, 0.15)
    lay(pen, disc(0.5, 0.5, 0.4), metal, lift=7, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.35, 0.33), shade_of(metal, 0.8), lift=-3, bevel=2)
    for k in range(18):
        angle = k * np.pi / 9
        if piece(pen) is not None:
            centre = (0.5 + 0.265 * np.cos(angle), 0.5 + 0.265 * np.sin(angle))
            lay(pen, box(*centre, 0.085, 0.034, 0.016, angle), DEEP, lift=-5, bevel=2)
    lay(pen, disc(0.5, 0.5, 0.17), shade_of(metal, 1.05), lift=16, dome=True)
    lay(pen, disc(0.5, 0.5, 0.03), DEEP, lift=-4, bevel=2)


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
        if piece(pen) is not None:
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


def bracket_black(pen: Pen) -> None:
    paint = Material((38, 39, 42), 0.4, "grain", 0.06, 0.3)
    outline = np.array([[0.16, 0.12], [0.4, 0.12], [0.4, 0.58], [0.86, 0.6], [0.86, 0.86], [0.16, 0.86]])
    lay(pen, outline, paint, lift=5, bevel=3)
    for k, (x, y) in enumerate(((0.28, 0.2), (0.28, 0.42), (0.54, 0.73), (0.76, 0.73))):
        if piece(pen) is not None:
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
    """Rounded cells about ``pitch`` pixels wide with creases between them, 0–1."""
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
                if piece(pen) is None:
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
            if piece(pen) is not None:
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


PARTS: dict[str, Draw] = {
    "audiojack": audiojack, "bottle_cap": bottle_cap, "bracket_black": bracket_black,
    "button_battery": button_battery, "candle": candle, "end_cap": end_cap, "eraser": eraser,
    "fire_hood": fire_hood, "grid": grid, "leather": leather, "macaroni1": macaroni, "Marbled_078": marbled,
    "metal_nut": metal_nut, "metal_plate": metal_plate, "mint": mint, "mounts": mounts, "pcb": pcb, "pcb1": pcb,
    "Perforated_037": perforated, "phone_battery": phone_battery, "plastic_nut": plastic_nut,
    "plastic_plug": plastic_plug, "porcelain_doll": porcelain_doll, "regulator": regulator,
    "rolled_strip_base": rolled_strip_base, "sim_card_set": sim_card_set, "switch": switch, "tape": tape,
    "terminalblock": terminalblock, "toothbrush": toothbrush, "toy": toy, "toy_brick": toy_brick,
    "transistor": strip_board, "transistor1": transistor, "tubes": tubes, "u_block": u_block, "usb": usb,
    "usb_adaptor": usb_adaptor, "vcpill": vcpill, "wooden_beads": wooden_beads, "woodstick": woodstick,
    "Woven_001": woven, "zipper": zipper,
}  # fmt: skip
"""The function that draws each category."""


def commutator(rng: np.random.Generator, width: int, height: int) -> Surface:
    """The plastic embedding of an electrical commutator, scanned grey: vertical drawing marks and dark grains."""
    side = -(-height // 256) * 256
    streaks, grains, cloud = noise("brushed", side).T, noise("grain", side), noise("cloud", side)
    window = [
        tuple(slice(at, at + reach) for at, reach in zip(rng.integers(0, side // 8, 2), (height, width), strict=True))
        for _ in range(3)
    ]
    unit = width / 500
    coarse = cv2.GaussianBlur(np.ascontiguousarray(grains[window[1]]), (0, 0), sigmaX=2.6 * unit, sigmaY=1.9 * unit)
    coarse = coarse / np.float32(coarse.std())
    tone = 186 + 8 * streaks[window[0]] + 14 * coarse + 6 * grains[window[1]] + 4 * cloud[window[2]]
    tone = np.ascontiguousarray(tone - np.maximum(coarse - 1.6, 0) * 22)
    for _ in range(int(rng.integers(0, 3))):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        cv2.ellipse(tone, (x, y), (int(width * 0.02), int(width * 0.013)), 0, 0, 360, 236.0, -1, cv2.LINE_AA)
    tone = np.clip(tone, 40, 250).astype(np.float32)
    flat = np.zeros_like(tone)
    return Surface(np.repeat(tone[..., None], 3, 2), flat, flat.copy(), np.ones_like(tone))
