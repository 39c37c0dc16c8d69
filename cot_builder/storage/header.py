"""What an image file says of itself, and whether it is all there, without decoding its pixels."""

import io
import struct
import zlib
from typing import NamedTuple

from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485
"""Pillow's own limit; a file of more pixels is taken for a decompression bomb."""
CHANNELS = {"1": 1, "L": 1, "LA": 1, "I": 1, "I;16": 1, "I;16B": 1, "P": 3, "RGB": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}


class DamagedError(ValueError):
    """The file is truncated, corrupt, or no image that can be read; its text says why."""


class Header(NamedTuple):
    """Size in pixels, channels (1, 3 or 4) and format of an image file."""

    width: int
    height: int
    channels: int
    format: str


def read_header(data: bytes) -> Header:
    """Header of an image file whose structure is complete.

    PNG: every chunk's CRC and the end chunk. JPEG: the end mark after the scan. BMP: the length of the pixel
    array. TIFF and WebP have no such mark and are decoded.

    Raises:
        DamagedError: the structure is not complete, the format is unknown, or the image is a decompression bomb.
    """
    image = open_image(data)
    image_format = "JPEG" if image.format == "MPO" else str(image.format)
    if image.mode not in CHANNELS:
        raise DamagedError(f"pixels of mode {image.mode} are not supported")
    _COMPLETE.get(image_format, _decodes)(data)
    return Header(*image.size, CHANNELS[image.mode], image_format)


def open_image(data: bytes) -> Image.Image:
    """Open without decoding.

    Raises:
        DamagedError: no image of a known format, or a decompression bomb.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DamagedError(f"decompression bomb: {error}") from error
    except Exception as error:
        # Pillow's plugins answer damaged headers with all sorts of exceptions.
        raise DamagedError("not a readable PNG, JPEG, BMP, TIFF or WebP file" if data else "empty file") from error
    if image.width * image.height > MAX_PIXELS:
        raise DamagedError(f"decompression bomb: {image.width} x {image.height} pixels")
    return image


def _decodes(data: bytes) -> None:
    try:
        open_image(data).load()
    except Exception as error:
        raise DamagedError(f"does not decode: {error}") from error


def _complete_png(data: bytes) -> None:
    view = memoryview(data)
    position, size = 8, len(data)
    while position + 12 <= size:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > size:
            break
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DamagedError(f"corrupt at byte {position}: a PNG chunk's checksum is wrong")
        if kind == b"IEND":
            return
        position = end + 4
    raise DamagedError("truncated: the PNG has no end")


def _complete_jpeg(data: bytes) -> None:
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise DamagedError(f"corrupt at byte {position}: no JPEG marker where one must be")
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:
            # Within a scan FF is always followed by 00, so FF D9 can only be the end.
            if data.rfind(b"\xff\xd9", position) < 0:
                break
            return
    raise DamagedError("truncated: the JPEG has no end")


def _complete_bmp(data: bytes) -> None:
    offset = int.from_bytes(data[10:14], "little")
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if int.from_bytes(data[14:18], "little") < 40 or compression not in (0, 3):
        _decodes(data)
    elif len(data) < offset + -(-abs(width) * bits // 32) * 4 * abs(height):
        raise DamagedError("truncated: the BMP is shorter than its pixels")


_COMPLETE = {"PNG": _complete_png, "JPEG": _complete_jpeg, "BMP": _complete_bmp}
