"""Regions of the image: the check of a caller's box, and the view of it that crop and enhance show."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from cot_builder.inspection.tools.tool import ToolError
from schemas.geometry import SCALE, Box, from_pixels, to_pixels

MIN_SIDE = 28
"""Pixels: one merged visual token of Qwen-VL models; a smaller image tells them nothing."""
TARGET_SIDE = 448
MAX_ZOOM = 8.0
MAX_SIDE = 1024
"""Pixels; a larger view is scaled down, since an image costs tokens by its area."""


def check_region(region: Sequence[int]) -> Box:
    """The caller's region as a box.

    Raises:
        ToolError: it is no box [x1, y1, x2, y2] of integers 0-1000.
    """
    hint = "region must be [x1, y1, x2, y2], integers 0-1000 with x1 < x2 and y1 < y2"
    if isinstance(region, str) or not isinstance(region, Sequence) or len(region) != 4:
        raise ToolError(f"{hint}; got {region!r}")
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in region):
        raise ToolError(f"{hint}; got {list(region)!r}")
    x1, y1, x2, y2 = region
    if not (0 <= x1 < x2 <= SCALE and 0 <= y1 < y2 <= SCALE):
        raise ToolError(f"{hint}; got {list(region)}")
    return x1, y1, x2, y2


def view(image: np.ndarray, box: Box) -> tuple[np.ndarray, Box, str]:
    """The region's pixels, enlarged; the box really shown; how many pixels of the image that is, and the zoom.

    A small region comes out at about 448 px, at most 8x enlarged; one of more than 1024 px is scaled down to that;
    between them the original pixels are shown. A region too narrow to show 28 px a side is widened.

    Args:
        image: uint8 (height, width, 3) BGR.
        box: In 0-1000.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = to_pixels(box, width, height)
    longest = max(x2 - x1, y2 - y1)
    zoom = MAX_SIDE / longest if longest > MAX_SIDE else min(max(TARGET_SIDE / longest, 1.0), MAX_ZOOM)
    least = math.ceil(MIN_SIDE / zoom)
    x1, x2 = _widen(x1, x2, least, width)
    y1, y2 = _widen(y1, y2, least, height)
    shown = from_pixels((x1, y1, x2, y2), width, height) if (x1, y1, x2, y2) != to_pixels(box, width, height) else box
    pixels = image[y1:y2, x1:x2]
    # Only an image that is itself narrower than MIN_SIDE needs more than MAX_ZOOM allows.
    zoom = max(zoom, MIN_SIDE / min(pixels.shape[:2]))
    # Not what the box says: above 1000 px a side its integers are coarser than pixels.
    told = f"{x2 - x1} x {y2 - y1} px shown at {zoom:.1f}x"
    if zoom == 1:
        return pixels.copy(), shown, told
    size = (max(MIN_SIDE, round((x2 - x1) * zoom)), max(MIN_SIDE, round((y2 - y1) * zoom)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA), shown, told


def _widen(low: int, high: int, least: int, size: int) -> tuple[int, int]:
    if high - low >= least:
        return low, high
    least = min(least, size)
    start = min(max((low + high - least) // 2, 0), size - least)
    return start, start + least
