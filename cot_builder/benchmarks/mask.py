"""Reads masks, and converts them to boxes and areas."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from cot_builder.storage.header import DamagedError, open_image, read_header
from schemas.geometry import Box, from_pixels

JPEG_MARKED = 128
"""Minimum value of a marked pixel in a JPEG, where compression leaves values just above 0 around marked pixels."""
SPECK_PX = 16
SPECK_SHARE = 0.01
MAX_BOXES = 64
CROPPABLE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Pillow modes whose `getbbox` includes all marked pixels."""


class Region(NamedTuple):
    """Marked pixels of one sample as boxes and area."""

    boxes: tuple[Box, ...]
    """Boxes in 0-1000 of the sample, one per connected region, largest first."""
    area_fraction: float
    """Share of the sample that is marked, in [0, 1]."""


class Mask(NamedTuple):
    """Size of a decoded mask, and the region of each band of rows."""

    width: int
    height: int
    bands: tuple[Region, ...]


def band_rows(band: int, bands: int, height: int) -> tuple[int, int]:
    """Return the half-open row range of one of ``bands`` horizontal bands of an image."""
    return band * height // bands, (band + 1) * height // bands


def read_mask(data: bytes, bands: int = 1) -> Mask:
    """Decode a mask file. :func:`read_marked_pixels` defines which pixels are marked.

    Regions are 8-connected. Specks (under 16 px and under 1 % of the largest region of the band) get no box, and
    neither do regions after the 64 largest. All regions count in the area.

    Raises:
        DamagedError: the file is truncated, corrupt, or no image.
    """
    image, kind = _open_mask(data)
    width, height = image.size
    # Crop to the non-black pixels before copying, because defects are small.
    inner = (image.getbbox() or (0, 0, 0, 0)) if image.mode in CROPPABLE_MODES else (0, 0, width, height)
    pixels = _find_marked_pixels(image.crop(inner), kind)
    rows = [band_rows(band, bands, height) for band in range(bands)]
    return Mask(width, height, tuple(_measure_band(pixels, inner[:2], (top, bottom), width) for top, bottom in rows))


def read_marked_pixels(data: bytes) -> np.ndarray:
    """Decode a mask file to uint8 (height, width), with values > 0 for marked pixels.

    A pixel is marked if its value, its palette index or one of its colours is > 0; in a JPEG, if it is >= 128.
    Transparent pixels are not marked.

    Raises:
        DamagedError: the file is truncated, corrupt, or no image.
    """
    image, kind = _open_mask(data)
    return _find_marked_pixels(image, kind)


def _open_mask(data: bytes) -> tuple[Image.Image, str]:
    kind = read_header(data).format
    image = open_image(data)
    try:
        image.load()
    except Exception as error:
        raise DamagedError(f"does not decode: {error}") from error
    return image, kind


def _find_marked_pixels(image: Image.Image, kind: str) -> np.ndarray:
    values = np.asarray(image)
    if kind == "JPEG":
        values = values >= JPEG_MARKED
    if values.ndim == 3:
        alpha = image.mode in ("LA", "RGBA")
        found = values[..., : values.shape[2] - alpha].max(axis=2) > 0
        values = found & (values[..., -1] > 0) if alpha else found
    return values if values.dtype == np.uint8 else (values > 0).astype(np.uint8)


def _measure_band(pixels: np.ndarray, origin: tuple[int, int], rows: tuple[int, int], width: int) -> Region:
    """Return the region in the band ``rows`` of a mask.

    Args:
        pixels: Crop of the mask.
        origin: x and y of the crop in the mask.
        rows: Half-open range of rows of the mask.
        width: Width of the mask.
    """
    top, bottom = rows
    first = max(top - origin[1], 0)
    inside = pixels[first : max(bottom - origin[1], 0)]
    x0, y0, across, down = cv2.boundingRect(inside) if inside.size else (0, 0, 0, 0)
    if not across:
        return Region((), 0.0)
    _, _, stats, _ = cv2.connectedComponentsWithStats(inside[y0 : y0 + down, x0 : x0 + across], connectivity=8)
    found = stats[1:][np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")]
    areas = found[:, cv2.CC_STAT_AREA]
    kept = found[(areas >= SPECK_PX) | (areas >= SPECK_SHARE * areas[0])][:MAX_BOXES]
    left, above, height = origin[0] + x0, origin[1] + first + y0 - top, bottom - top
    boxes = tuple(
        from_pixels((left + x, above + y, left + x + w, above + y + h), width, height)
        for x, y, w, h, _ in kept.tolist()
    )
    return Region(boxes, float(areas.sum()) / (width * height))
