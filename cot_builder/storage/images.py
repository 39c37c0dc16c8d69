"""Image files to pixels and back."""

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from schemas.errors import IndusCotError

if TYPE_CHECKING:
    from PIL.Image import Image

# A damaged file is reported by whoever decodes it, by name; OpenCV's own line names nothing.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

PNG = (
    cv2.IMWRITE_PNG_COMPRESSION, 1,
    cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP,
)  # fmt: skip
"""On photographs, half the time of trying every filter on each row, two thirds of it to decode, for 5 % more bytes."""


class UndecodableError(IndusCotError):
    """One image's file does not decode: that image may be left out. A shard that is not there is another matter."""


def decode(data: bytes, region: tuple[int, int, int, int] | None = None, name: str = "image") -> np.ndarray:
    """Image file to uint8 (height, width, 3) BGR; EXIF orientation ignored, so that masks and boxes keep fitting.

    Raises:
        UndecodableError: the bytes are no image that OpenCV reads.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if pixels is None:
        raise UndecodableError(f"{name}: the image does not decode; the file is damaged")
    if region is not None:
        x1, y1, x2, y2 = region
        pixels = pixels[y1:y2, x1:x2]
    return np.ascontiguousarray(pixels)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 (height, width) or (height, width, 3) BGR to PNG bytes; the same pixels give the same bytes."""
    return cv2.imencode(".png", pixels, PNG)[1].tobytes()


def read_pixels(image: "np.ndarray | bytes | str | Path | Image") -> np.ndarray:
    """Any common form of an image as uint8 (height, width, 3) BGR.

    Args:
        image: Path of an image file, the file's bytes, an image of PIL, or pixels in BGR, which are returned as they
            are. EXIF orientation is ignored, so that boxes keep fitting.

    Raises:
        IndusCotError: there is no such file, it is no image that OpenCV reads, or the pixels have another shape.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise IndusCotError(
                f"image: pixels are {image.dtype} {image.shape}; give uint8 (height, width, 3) in BGR order"
            )
        return image
    if isinstance(image, bytes):
        return decode(image)
    if isinstance(image, str | Path):
        try:
            return decode(Path(image).read_bytes(), name=str(image))
        except OSError as error:
            raise IndusCotError(f"{image}: cannot be read ({error.strerror}); name an image file") from None
    return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
