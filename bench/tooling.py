"""Latency of a tool call against the same OpenCV calls bare."""

import cv2
import numpy as np

from bench.paired import Row, paired
from cot_builder.inspection.tools.crop import crop
from cot_builder.inspection.tools.enhance import enhance

REPEATS = 150
IMAGE = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8), (0, 0), 2)
REGION = [300, 400, 420, 500]
PIXELS = slice(410, 512), slice(308, 430)


def tool_crop() -> Row:
    """A region of 122 x 102 px, enlarged to 448 px."""

    def bare() -> None:
        for _ in range(REPEATS):
            cv2.resize(IMAGE[PIXELS], (448, 375), interpolation=cv2.INTER_CUBIC)

    def ours() -> None:
        for _ in range(REPEATS):
            crop(IMAGE, REGION)

    ratio = paired(ours, bare, 9)
    return Row("tool_crop", "crop, calls/s", "slice and resize with OpenCV", ratio, 0.8, "higher")


def tool_enhance() -> Row:
    """CLAHE of the same region, with the lightness statistics that the text states."""
    equaliser = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8))

    def bare() -> None:
        for _ in range(REPEATS):
            lab = cv2.cvtColor(cv2.resize(IMAGE[PIXELS], (448, 375), interpolation=cv2.INTER_CUBIC), cv2.COLOR_BGR2LAB)
            lightness, a, b = cv2.split(lab)
            cv2.meanStdDev(lightness)
            even = equaliser.apply(lightness)
            cv2.meanStdDev(even)
            cv2.cvtColor(cv2.merge([even, a, b]), cv2.COLOR_LAB2BGR)

    def ours() -> None:
        for _ in range(REPEATS):
            enhance(IMAGE, "clahe", REGION)

    ratio = paired(ours, bare, 9)
    return Row("tool_enhance", "enhance (clahe), calls/s", "the same OpenCV calls", ratio, 0.8, "higher")
