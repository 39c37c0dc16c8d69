"""The tool enhance: a texture map of a region that makes faint structures visible."""

from typing import Literal, get_args

import cv2
import numpy as np

from cot_builder.inspection.tools.regions import check_region, view
from cot_builder.inspection.tools.tool import CLAIM, ToolError, ToolResult, tool
from schemas.geometry import SCALE, Box

Operator = Literal["clahe", "canny", "residual"]


@tool(
    version=5,
    mentions=r"\bequalis|\bclahe\b|\bcanny\b|\bedge map|\bresidual\b|\benhanc",
    results=(rf"\b(?:edge map|residual|equalisation|map)\b[^.;]{{0,30}}\b{CLAIM}\b|\bequalised,|\bafter equalisation"),
    returns_image=True,
)
def enhance(image: np.ndarray, operator: Operator, region: list[int] | None = None) -> ToolResult:
    """Bring out faint texture in a region.

    Args:
        image: The inspected image.
        operator: clahe evens out contrast, canny draws edges, residual keeps fine detail only.
        region: Box [x1, y1, x2, y2], integers 0-1000 of the original image. Leave it out for the whole image.

    Raises:
        ToolError: the operator is unknown, or the region is no box in 0-1000.
    """
    if operator not in get_args(Operator):
        raise ToolError(f"operator must be one of {', '.join(get_args(Operator))}; got {operator!r}")
    box = (0, 0, SCALE, SCALE) if region is None else check_region(region)
    pixels, shown, size = view(image, box)
    where = f"of {list(shown)}, {size}"
    if operator == "clahe":
        return _clahe(pixels, where)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    return _canny(grey, where) if operator == "canny" else _residual(grey, shown, where)


def _clahe(pixels: np.ndarray, where: str) -> ToolResult:
    lightness, green_red, blue_yellow = cv2.split(cv2.cvtColor(pixels, cv2.COLOR_BGR2LAB))
    # Create a CLAHE per call: the object is stateful, and tools run in threads.
    even = cv2.createCLAHE(clipLimit=3.0, tileGridSize=(8, 8)).apply(lightness)
    before, after = _spread(lightness), _spread(even)
    text = f"Contrast-limited equalisation {where}: lightness spread {before:.1f} before, {after:.1f} after."
    return ToolResult(text, cv2.cvtColor(cv2.merge([even, green_red, blue_yellow]), cv2.COLOR_LAB2BGR))


def _spread(channel: np.ndarray) -> float:
    return float(cv2.meanStdDev(channel)[1].item())


def _canny(grey: np.ndarray, where: str) -> ToolResult:
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.2)
    middle = float(np.median(smooth))
    edges = cv2.Canny(smooth, max(10.0, 0.33 * middle), max(30.0, 0.66 * middle))
    share = 100 * cv2.countNonZero(edges) / edges.size
    return ToolResult(f"Canny edges {where}: edges cover {share:.1f} % of the region.", edges)


def _residual(grey: np.ndarray, shown: Box, where: str) -> ToolResult:
    sigma = max(2.0, max(grey.shape) / 40)
    fine = cv2.absdiff(grey, cv2.GaussianBlur(grey, (0, 0), sigma))
    smooth = cv2.GaussianBlur(fine, (0, 0), 2.0)
    _, peak, _, (x, y) = cv2.minMaxLoc(smooth)
    middle = max(float(np.median(smooth)), 1.0)
    px = shown[0] + round((shown[2] - shown[0]) * x / grey.shape[1])
    py = shown[1] + round((shown[3] - shown[1]) * y / grey.shape[0])
    text = f"High-frequency residual {where}: strongest at ({px}, {py}), {peak / middle:.1f} times the median response."
    return ToolResult(text, cv2.convertScaleAbs(fine, alpha=min(255 / max(peak, 1.0), 8.0)))
