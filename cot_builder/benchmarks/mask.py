"""Masks to boxes and areas."""

from typing import NamedTuple

import cv2
import numpy as np

from cot_builder.storage.header import DamagedError, open_image, read_header
from schemas.geometry import Box, from_pixels

JPEG_MARKED = 128
"""Compression leaves values just above 0 all around what was marked."""
SPECK_PX = 16
SPECK_SHARE = 0.01
MAX_BOXES = 64


class Region(NamedTuple):
    """What a mask marks of one sample."""

    boxes: tuple[Box, ...]
    """0-1000 of the sample, one a connected region, largest first."""
    area_fraction: float


class Mask(NamedTuple):
    """A decoded mask's size and, for each band of rows, its boxes and area."""

    width: int
    height: int
    bands: tuple[Region, ...]


def band_rows(band: int, bands: int, height: int) -> tuple[int, int]:
    """Half-open row range of one of ``bands`` horizontal bands of an image."""
    return band * height // bands, (band + 1) * height // bands


def read_mask(data: bytes | memoryview, bands: int = 1) -> Mask:
    """Decode a mask file; a pixel is marked as :func:`marked` says.

    Regions are 8-connected. A speck, under 16 px and under 1 % of the largest region of its band, gets no box, nor
    does any region after the 64 largest; all of them count in the area.

    Raises:
        DamagedError: the file is truncated, corrupt, or no image.
    """
    pixels = marked(data)
    height, width = pixels.shape
    rows = [band_rows(band, bands, height) for band in range(bands)]
    return Mask(width, height, tuple(_region(pixels[top:bottom]) for top, bottom in rows))


def marked(data: bytes | memoryview) -> np.ndarray:
    """Decode a mask file to uint8 (height, width); > 0 where its value, palette index or any of its colours is.

    In a JPEG it must be >= 128. A transparent pixel is not marked.

    Raises:
        DamagedError: the file is truncated, corrupt, or no image.
    """
    header = read_header(data)
    image = open_image(data)
    try:
        values = np.asarray(image)
    except Exception as error:
        raise DamagedError(f"does not decode: {error}") from error
    if header.format == "JPEG":
        values = values >= JPEG_MARKED
    if values.ndim == 3:
        alpha = image.mode in ("LA", "RGBA")
        found = values[..., : values.shape[2] - alpha].max(axis=2) > 0
        values = found & (values[..., -1] > 0) if alpha else found
    return values if values.dtype == np.uint8 else (values > 0).astype(np.uint8)


def _region(pixels: np.ndarray) -> Region:
    height, width = pixels.shape
    # Labelling the bounding rectangle alone is some ten times faster: defects are small.
    left, top, across, down = cv2.boundingRect(pixels)
    if not across:
        return Region((), 0.0)
    inner = pixels[top : top + down, left : left + across]
    _, _, stats, _ = cv2.connectedComponentsWithStats(inner, connectivity=8)
    found = stats[1:][np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")]
    areas = found[:, cv2.CC_STAT_AREA]
    kept = found[(areas >= SPECK_PX) | (areas >= SPECK_SHARE * areas[0])][:MAX_BOXES]
    boxes = tuple(
        from_pixels((left + x, top + y, left + x + w, top + y + h), width, height) for x, y, w, h, _ in kept.tolist()
    )
    return Region(boxes, float(areas.sum()) / (width * height))
