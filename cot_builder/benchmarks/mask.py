"""Masks to boxes and areas."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from cot_builder.storage.header import DamagedError, open_image, read_header
from schemas.geometry import Box, from_pixels

JPEG_MARKED = 128
"""Compression leaves values just above 0 all around what was marked."""
SPECK_PX = 16
SPECK_SHARE = 0.01
MAX_BOXES = 64
CROPPED = ("1", "L", "LA", "P", "RGB", "RGBA")
"""Modes of Pillow whose `getbbox` surrounds all that is marked."""


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


def read_mask(data: bytes, bands: int = 1) -> Mask:
    """Decode a mask file; a pixel is marked as :func:`marked` says.

    Regions are 8-connected. A speck, under 16 px and under 1 % of the largest region of its band, gets no box, nor
    does any region after the 64 largest; all of them count in the area.

    Raises:
        DamagedError: the file is truncated, corrupt, or no image.
    """
    image, kind = _open(data)
    width, height = image.size
    # Defects are small: what lies around all that is not black is left before anything is copied.
    inner = (image.getbbox() or (0, 0, 0, 0)) if image.mode in CROPPED else (0, 0, width, height)
    pixels = _marked(image.crop(inner), kind)
    rows = [band_rows(band, bands, height) for band in range(bands)]
    return Mask(width, height, tuple(_region(pixels, inner[:2], (top, bottom), width) for top, bottom in rows))


def read_marked_pixels(data: bytes) -> np.ndarray:
    """Decode a mask file to uint8 (height, width); > 0 where its value, palette index or any of its colours is.

    In a JPEG it must be >= 128. A transparent pixel is not marked.

    Raises:
        DamagedError: the file is truncated, corrupt, or no image.
    """
    image, kind = _open(data)
    return _marked(image, kind)


def _open(data: bytes) -> tuple[Image.Image, str]:
    kind = read_header(data).format
    image = open_image(data)
    try:
        image.load()
    except Exception as error:
        raise DamagedError(f"does not decode: {error}") from error
    return image, kind


def _marked(image: Image.Image, kind: str) -> np.ndarray:
    values = np.asarray(image)
    if kind == "JPEG":
        values = values >= JPEG_MARKED
    if values.ndim == 3:
        alpha = image.mode in ("LA", "RGBA")
        found = values[..., : values.shape[2] - alpha].max(axis=2) > 0
        values = found & (values[..., -1] > 0) if alpha else found
    return values if values.dtype == np.uint8 else (values > 0).astype(np.uint8)


def _region(pixels: np.ndarray, origin: tuple[int, int], rows: tuple[int, int], width: int) -> Region:
    """Of the band ``rows`` of a mask ``width`` wide; ``pixels`` is a part of it that begins at ``origin``."""
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
