"""Electric and electronic parts: batteries, boards, plugs, sockets, switches."""

import cv2
import numpy as np

from cot_builder.benchmarks.synthetic.parts.materials import (
    BLACK,
    BRASS,
    COPPER,
    DEEP,
    DULL_STEEL,
    GOLD,
    INK,
    PALE,
    SOLDER,
    STEEL,
    WHITE,
    pick,
    pick_text,
    ring,
)
from cot_builder.benchmarks.synthetic.surface import (
    Material,
    Pen,
    Surface,
    box,
    disc,
    lay,
    next_piece,
    noise,
    rotate,
    shade_of,
    stroke,
    write,
)


def button_battery(pen: Pen) -> None:
    lay(pen, disc(0.5, 0.5, 0.38), shade_of(STEEL, 0.92), lift=4, bevel=5)
    lay(pen, ring(0.5, 0.5, 0.335, 0.322), Material((72, 74, 78), 0.2), lift=-3, bevel=1.5)
    lay(pen, disc(0.5, 0.5, 0.322), STEEL, lift=3, bevel=3)
    engraved = Material((112, 113, 116), 0.4)
    write(pen, pick_text(pen, "CR2032", "CR2025", "CR2450"), 0.5, 0.5, 0.052, engraved, -1.2)
    write(pen, "3V", 0.5, 0.6, 0.045, engraved, -1.2)
    write(pen, "LITHIUM CELL", 0.5, 0.405, 0.03, engraved, -1.0)
    write(pen, "+", 0.5, 0.29, 0.085, engraved, -1.4)


def chip(pen: Pen, x: float, y: float, w: float, h: float, pins: int, text: str, turn: float = 0.0) -> None:
    """Draw a chip in a package with two rows of pins, rotated by ``turn`` radians about its centre."""
    for side in (-1, 1):
        for k in range(pins):
            at = rotate(np.array([[(k + 0.5) / pins * w - w / 2, side * (h / 2 + 0.008)]]), turn)[0]
            lay(pen, box(x + at[0], y + at[1], w / pins * 0.45, 0.026, 0, turn), SOLDER, lift=2, bevel=1)
    lay(pen, box(x, y, w, h, 0.005, turn), BLACK, lift=6, bevel=2)
    dot = rotate(np.array([[-w / 2 + 0.016, h / 2 - 0.016]]), turn)[0]
    lay(pen, disc(x + dot[0], y + dot[1], 0.006, corners=20), DEEP, lift=-1, bevel=1)
    write(pen, text, x, y, min(h * 0.22, 0.026), Material((150, 150, 150)), 0, turn)


def passive(pen: Pen, x: float, y: float, turn: float, body: Material) -> None:
    """Draw a two-ended component with soldered ends."""
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
        if next_piece(pen) is not None:
            lay(pen, box(0.24 + k * 0.045, 0.765, 0.024, 0.03, 0.003), GOLD, lift=1.5, bevel=1)
    for x, y, w, h, pins in ((0.36, 0.44, 0.2, 0.13, 8), (0.67, 0.6, 0.15, 0.1, 6)):
        lay(pen, [box(x, y, w + 0.02, h + 0.075), box(x, y, w + 0.013, h + 0.068)], silk)
        text = pick_text(pen, "74HC595", "ATM328", "LM2904", "STC15W")
        bend = next_piece(pen)
        if bend is not None:
            chip(pen, x, y, w, h, pins, text, bend * 0.4)
    brown, dark = Material((150, 118, 82), 0.2), Material((44, 44, 48), 0.25)
    for k in range(9):
        x, y = 0.57 + 0.075 * (k % 4), 0.3 + 0.075 * (k // 4)
        bend = next_piece(pen)
        lay(pen, [box(x, y, 0.066, 0.042), box(x, y, 0.06, 0.036)], silk, opacity=0.8)
        if bend is not None:
            passive(pen, x, y, bend, brown if k % 2 else dark)
    bend = next_piece(pen)
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
        bend = next_piece(pen)
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


def usb(pen: Pen) -> None:
    rubber = Material(pick(pen, (40, 40, 44), (222, 222, 220), (52, 74, 110)), 0.18, "grain", 0.03, 0.2)
    lay(pen, box(0.5, 0.93, 0.1, 0.26), rubber, lift=8, bevel=8)
    lay(pen, box(0.5, 0.69, 0.34, 0.27, 0.05), rubber, lift=9, bevel=5)
    for k in range(4):
        lay(pen, box(0.5, 0.76 + 0.022 * k, 0.25 - 0.02 * k, 0.007, 0.003), shade_of(rubber, 0.8), lift=-2, bevel=1)
    bend = next_piece(pen) or 0.0
    turn = bend * 0.35
    around = (0.5, 0.56)
    lay(pen, rotate(box(0.5, 0.355, 0.3, 0.42, 0.008), turn, around), STEEL, lift=7, bevel=3)
    lay(
        pen, rotate(stroke(np.array([[0.5, 0.15], [0.5, 0.56]]), 0.004), turn, around), DULL_STEEL, lift=-1.5, bevel=0.8
    )
    for x in (0.43, 0.57):
        if next_piece(pen) is not None:
            window = rotate(box(x, 0.27, 0.055, 0.07, 0.004), turn, around)
            lay(pen, window, DEEP, lift=-4, bevel=1)
            lay(pen, rotate(box(x, 0.285, 0.032, 0.03, 0.003), turn, around), WHITE)
    lay(pen, rotate(box(0.5, 0.47, 0.05, 0.06, 0.02), turn, around), DULL_STEEL, lift=-1.5, bevel=1.5)
    symbol = shade_of(rubber, 1.5 if rubber.colour[0] < 120 else 0.75)
    lay(pen, disc(0.5, 0.67, 0.018), symbol)
    lay(pen, stroke(np.array([[0.5, 0.615], [0.5, 0.725]]), 0.007), symbol)


def terminalblock(pen: Pen) -> None:
    plastic = Material(pick(pen, (34, 132, 76), (30, 96, 160), (60, 62, 66)), 0.3, "grain", 0.02, 0.15)
    lay(pen, box(0.5, 0.5, 0.84, 0.5, 0.01), plastic, lift=8, bevel=3)
    lay(pen, box(0.5, 0.675, 0.84, 0.1), shade_of(plastic, 0.86), lift=-3, bevel=2)
    for k in range(5):
        x = 0.165 + 0.1675 * k
        lay(pen, disc(x, 0.43, 0.066), shade_of(plastic, 0.5), lift=-5, bevel=2)
        lay(pen, box(x, 0.675, 0.09, 0.065, 0.006), DEEP, lift=-4, bevel=1.5)
        turn = float(pen.rng.uniform(0, np.pi))
        if next_piece(pen) is not None:
            lay(pen, disc(x, 0.43, 0.055), STEEL, lift=5, bevel=3)
            lay(pen, box(x, 0.43, 0.1, 0.014, 0, turn), DEEP, lift=-2, bevel=1)
        if k:
            lay(pen, box(x - 0.084, 0.5, 0.008, 0.5), shade_of(plastic, 0.75), lift=-2, bevel=1)
        write(pen, str(k + 1), x, 0.305, 0.032, PALE)


def phone_battery(pen: Pen) -> None:
    foil = Material(pick(pen, (54, 56, 60), (206, 208, 210), (42, 46, 58)), 0.45, "grain", 0.02, 0.12)
    dark = foil.colour[0] < 120
    print_ = Material((220, 220, 220) if dark else (44, 44, 48), 0.2)
    lay(pen, box(0.5, 0.53, 0.58, 0.74, 0.03), foil, lift=6, bevel=7)
    lay(pen, box(0.5, 0.178, 0.56, 0.05, 0.006), Material((58, 92, 58), 0.3), lift=4, bevel=2)
    for k in range(4):
        if next_piece(pen) is not None:
            lay(pen, box(0.38 + 0.08 * k, 0.178, 0.05, 0.032, 0.004), GOLD, lift=2, bevel=1)
    write(pen, "Li-ion Polymer", 0.5, 0.33, 0.036, print_)
    write(pen, pick_text(pen, "3.85V  4000mAh", "3.82V  3260mAh", "3.87V  5000mAh"), 0.5, 0.42, 0.032, print_)
    for k, text in enumerate(("MODEL BN-57", "LIMIT 4.40V", "DO NOT DISASSEMBLE")):
        write(pen, text, 0.5, 0.54 + 0.05 * k, 0.022, print_)
    for k in range(34):
        if pen.rng.random() < 0.6:
            lay(pen, box(0.3 + 0.012 * k, 0.78, 0.007, 0.07), print_)


def switch(pen: Pen) -> None:
    lay(pen, box(0.5, 0.5, 0.66, 0.5, 0.02), BLACK, lift=5, bevel=4)
    lay(pen, box(0.5, 0.5, 0.52, 0.36, 0.012), DEEP, lift=-3, bevel=2)
    rocker = Material(pick(pen, (178, 30, 32), (36, 38, 42), (40, 110, 60)), 0.5, "grain", 0.015)
    lay(pen, box(0.375, 0.5, 0.24, 0.33, 0.01), shade_of(rocker, 1.06), lift=8, bevel=6)
    lay(pen, box(0.625, 0.5, 0.24, 0.33, 0.01), shade_of(rocker, 0.86), lift=4, bevel=6)
    lay(pen, stroke(np.array([[0.375, 0.45], [0.375, 0.55]]), 0.014), PALE)
    lay(pen, ring(0.625, 0.5, 0.045, 0.03), PALE)
    for k in range(3):
        bend = next_piece(pen)
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
    bend = (next_piece(pen) or 0.0) * 0.35
    around = (0.46, 0.5)
    pin = rotate(box(0.645, 0.5, 0.4, 0.105, 0.01), bend, around)
    lay(pen, pin, GOLD, lift=18, dome=True)
    for k in range(3):
        if next_piece(pen) is not None:
            lay(pen, rotate(box(0.6 + 0.085 * k, 0.5, 0.016, 0.106), bend, around), BLACK, lift=-1.5, bevel=1)
    tip = np.array([[0.83, 0.448], [0.87, 0.462], [0.885, 0.45], [0.93, 0.485], [0.93, 0.515], [0.885, 0.55]])
    tip = np.concatenate([tip, [[0.87, 0.538], [0.83, 0.552]]])
    lay(pen, rotate(tip, bend, around), GOLD, lift=15, dome=True)


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


def commutator(rng: np.random.Generator, width: int, height: int) -> Surface:
    """Draw the plastic embedding of an electrical commutator, scanned in grey: vertical drawing marks, dark grains."""
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
