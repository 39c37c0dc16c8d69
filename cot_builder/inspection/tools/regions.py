"""Checks the region of a call, and renders the view of it that crop and enhance return."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

from cot_builder.inspection.tools.tool import ToolError
from schemas.geometry import SCALE, Box, from_pixels, to_pixels

MIN_SIDE = 28
"""Shortest side of a view in pixels: one merged visual token of Qwen-VL models, which get nothing from less."""
TARGET_SIDE = 448
"""Longest side in pixels that a small region is enlarged to."""
MAX_ZOOM = 8.0
MAX_SIDE = 1024
"""Longest side of a view in pixels. Larger views are scaled down, because the token cost grows with the area."""


def check_region(region: Sequence[int]) -> Box:
    """Return the region of a call as a box.

    Raises:
        ToolError: the region is no box [x1, y1, x2, y2] of integers 0-1000.
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
    """Render the view of a region.

    A small region is enlarged to about 448 px, by a factor of at most 8. A region of more than 1024 px is scaled down
    to 1024 px. All others keep their original pixels. A region that would be shown with less than 28 px a side is
    widened.

    Args:
        image: uint8 (height, width, 3) BGR.
        box: Region in 0-1000.

    Returns:
        The pixels of the view, the box that is shown, and a text with its size in image pixels and the zoom.
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
    # The zoom exceeds MAX_ZOOM only for images narrower than MIN_SIDE.
    zoom = max(zoom, MIN_SIDE / min(pixels.shape[:2]))
    # State the size in pixels, because the box is coarser than a pixel in images of more than 1000 px a side.
    size_text = f"{x2 - x1} x {y2 - y1} px shown at {zoom:.1f}x"
    if zoom == 1:
        return pixels.copy(), shown, size_text
    size = (max(MIN_SIDE, round((x2 - x1) * zoom)), max(MIN_SIDE, round((y2 - y1) * zoom)))
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC if zoom > 1 else cv2.INTER_AREA), shown, size_text


def _widen(low: int, high: int, least: int, size: int) -> tuple[int, int]:
    if high - low >= least:
        return low, high
    least = min(least, size)
    start = min(max((low + high - least) // 2, 0), size - least)
    return start, start + least
