"""Read the header of an image file and check that the file is complete, without decoding its pixels."""

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 89_478_485
"""Pillow's own limit; a file with more pixels is treated as a decompression bomb."""
CHANNELS = {"1": 1, "L": 1, "LA": 1, "I": 1, "I;16": 1, "I;16B": 1, "P": 3, "RGB": 3, "YCbCr": 3, "RGBA": 4, "CMYK": 4}


PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 1, 6: 4}
"""Channels by PNG colour type: grey, RGB, palette, grey with alpha, RGBA."""
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_END = 0xD9
JPEG_SCAN = 0xDA
SCAN_BLOCK = 2**17
IS_SCAN_BYTE = np.isin(np.arange(256), (0x00, 0xFF, *range(0xD0, 0xD8)))
"""Bool (256,): bytes that may follow FF inside a scan: a stuffed zero, a fill byte, a restart marker."""
JPEG_MARKERS = JPEG_FRAMES | {0xC4, 0xCC, *range(0xD9, 0xF0), 0xFE, 0xFF}
"""Valid markers outside a scan: fill bytes, the end marker, and markers that are followed by a length."""
ROTATED_ORIENTATIONS = range(2, 9)
"""EXIF orientations that rotate or mirror the image; 1 is upright, and viewers ignore all other values."""
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_METADATA = (b"XML:com.adobe.xmp", b"Raw profile type exif")


class DamagedError(ValueError):
    """The file is truncated, corrupt or not a readable image; the message gives the reason."""


class RotatedError(DamagedError):
    """The EXIF orientation rotates or mirrors the pixels, so viewers with and without EXIF support disagree."""


class Header(NamedTuple):
    """Size in pixels, channels (1, 3 or 4) and format of an image file."""

    width: int
    height: int
    channels: int
    format: str


def read_header(data: bytes) -> Header:
    """Read the header of an image file and check that its structure is complete.

    Checked are, for PNG, the CRC of every chunk and the end chunk; for JPEG, every marker up to the end marker (most
    damage within a scan produces an invalid marker); for BMP, the length of the pixel array. TIFF, WebP and rare
    variants of the other formats cannot be checked this way; Pillow decodes them.

    Raises:
        DamagedError: the structure is incomplete, the format is unknown, or the image is a decompression bomb.
        RotatedError: the orientation tag rotates or mirrors the pixels.
    """
    try:
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            header = _read_png_header(data)
        elif data[:2] == b"\xff\xd8":
            header = _read_jpeg_header(data)
        elif data[:2] == b"BM" and data[14:15] == b"\x28" and data[30:31] in (b"\0", b"\3"):
            header = _read_bmp_header(data)
        else:
            return _decode_header(data)
    except (struct.error, IndexError) as error:
        raise DamagedError("truncated: the file ends within its header") from error
    if header.width * header.height > MAX_PIXELS:
        raise DamagedError(f"decompression bomb: {header.width} x {header.height} pixels")
    if not header.width * header.height:
        raise DamagedError("corrupt: the image has no pixels")
    return header


def open_image(data: bytes) -> Image.Image:
    """Open an image with Pillow, without decoding it.

    Raises:
        DamagedError: the format is unknown, or the image is a decompression bomb.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DamagedError(f"decompression bomb: {error}") from error
    except Exception as error:
        # Pillow's plugins raise many kinds of exceptions for damaged headers.
        raise DamagedError("not a readable PNG, JPEG, BMP, TIFF or WebP file" if data else "empty file") from error
    if image.width * image.height > MAX_PIXELS:
        raise DamagedError(f"decompression bomb: {image.width} x {image.height} pixels")
    return image


def _decode_header(data: bytes) -> Header:
    image = open_image(data)
    if image.mode not in CHANNELS:
        raise DamagedError(f"pixels of mode {image.mode} are not supported")
    # Check before decoding: Pillow rotates a TIFF while decoding it and drops the tag.
    _check_upright(image)
    try:
        image.load()
    except Exception as error:
        raise DamagedError(f"does not decode: {error}") from error
    return Header(*image.size, CHANNELS[image.mode], str(image.format))


def _check_upright(image: Image.Image) -> None:
    """Refuse a rotated image, as Pillow reads EXIF and XMP, because `datasets.Image` rotates pixels accordingly."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception as error:
        raise DamagedError(f"corrupt: its EXIF cannot be read ({error})") from error
    if orientation in ROTATED_ORIENTATIONS:
        raise RotatedError(f"EXIF orientation {orientation}: save the pixels upright, without the tag")


def _read_png_header(data: bytes) -> Header:
    """Read the chunks as in the PNG specification (third edition, W3C 2025), section 5."""
    view = memoryview(data)
    position, size = 8, len(data)
    tagged = False
    while position + 12 <= size:
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > size:
            break
        if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            raise DamagedError(f"corrupt at byte {position}: a PNG chunk's checksum is wrong")
        tagged |= kind == b"eXIf"
        tagged |= kind in PNG_TEXTS and bytes(view[position + 8 : min(end, position + 40)]).startswith(PNG_METADATA)
        if kind == b"IEND":
            if tagged:
                _check_upright(open_image(data))
            width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
            return Header(width, height, PNG_CHANNELS[colour], "PNG")
        if position == 8 and (kind != b"IHDR" or length != 13 or data[25] not in PNG_CHANNELS):
            raise DamagedError("corrupt: the PNG does not begin with a header")
        position = end + 4
    raise DamagedError("truncated: the PNG has no end")


def _read_jpeg_header(data: bytes) -> Header:
    """Read the markers as in ITU-T T.81, annex B."""
    header = None
    tagged = False
    position = 2
    while position + 1 < len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker not in JPEG_MARKERS:
            raise DamagedError(f"corrupt at byte {position}: expected a JPEG marker")
        if marker == 0xFF:
            position += 1
            continue
        if marker == JPEG_END:
            break
        if marker in JPEG_FRAMES and header is None:
            height, width, channels = struct.unpack_from(">HHB", data, position + 5)
            if channels not in (1, 3, 4):
                raise DamagedError(f"corrupt: a JPEG of {channels} channels")
            header = Header(width, height, channels, "JPEG")
        tagged |= marker == 0xE1
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == JPEG_SCAN:
            position = _find_scan_end(data, position)
    if header is None or position + 1 >= len(data):
        raise DamagedError("truncated: the JPEG has no end")
    if tagged:
        _check_upright(open_image(data))
    return header


def _find_scan_end(data: bytes, start: int) -> int:
    """Return the position of the marker that ends the scan, or the length of ``data``."""
    values = np.frombuffer(data, np.uint8)
    for begin in range(start, len(data) - 1, SCAN_BLOCK):
        block = values[begin : begin + SCAN_BLOCK + 1]
        marks = (block[:-1] == 0xFF) & (block[1:] != 0)
        # Most blocks have no mark, and `flatnonzero` costs more than all the rest of this loop.
        if marks.any():
            places = np.flatnonzero(marks)
            ends = places[~IS_SCAN_BYTE[block[places + 1]]]
            if ends.size:
                return begin + int(ends[0])
    return len(data)


def _read_bmp_header(data: bytes) -> Header:
    offset, _, width, height, _, bits = struct.unpack_from("<IIiiHH", data, 10)
    if len(data) < offset + -(-abs(width) * bits // 32) * 4 * abs(height):
        raise DamagedError("truncated: the BMP is shorter than its pixels")
    colours = data[54:offset]
    grey = bits <= 8 and all(colours[i] == colours[i + 1] == colours[i + 2] for i in range(0, len(colours) - 3, 4))
    return Header(abs(width), abs(height), 1 if grey else 4 if bits == 32 else 3, "BMP")
