"""Tests of `pull` with damaged, rotated or unusable images and masks: only these images are affected."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from cot_builder.storage.header import DamagedError, Header, read_header
from schemas.errors import IndusCotError
from tests.helpers.layouts import (
    Files,
    assert_nothing_pulled,
    mask,
    mvtec_files,
    picture,
    pull_set,
    write_folder,
    write_tar,
)


def make_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def make_bomb(width: int = 60000, height: int = 60000) -> bytes:
    """Make a valid PNG of a few bytes that claims to have 3.6 gigapixels."""
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + make_chunk(b"IDAT", zlib.compress(bytes(1000))) + make_chunk(b"IEND", b"")


def flip_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def overwrite_middle(data: bytes) -> bytes:
    """Overwrite a sector in the middle with other data, as on a damaged file system."""
    middle = len(data) // 2
    sector = np.random.default_rng(0).integers(0, 256, 512, dtype=np.uint8).tobytes()
    return data[:middle] + sector + data[middle + len(sector) :]


def encode_jpeg(*options: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", noise, options)[1].tobytes()


DAMAGES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "flipped PNG": (".png", lambda: flip_byte(picture(4)), "a PNG chunk's checksum is wrong"),
    "cut PNG": (".png", lambda: picture(4)[:-20], "truncated: the PNG has no end"),
    "cut PNG header": (".png", lambda: picture(4)[:20], "truncated"),
    "cut JPEG": (".jpg", lambda: picture(4, suffix=".jpg")[:-40], "truncated: the JPEG has no end"),
    "JPEG without markers": (".jpg", lambda: picture(4, suffix=".jpg")[:20] + bytes(200), "corrupt at byte"),
    "overwritten JPEG": (".jpg", lambda: overwrite_middle(encode_jpeg()), "expected a JPEG marker"),
    "overwritten progressive JPEG": (
        ".jpg",
        lambda: overwrite_middle(encode_jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        "expected a JPEG marker",
    ),
    "cut progressive JPEG": (
        ".jpg",
        lambda: encode_jpeg(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:-2000],
        "truncated: the JPEG has no end",
    ),
    "cut BMP": (".bmp", lambda: picture(4, suffix=".bmp")[:-1], "shorter than its pixels"),
    "cut WebP": (".webp", lambda: picture(4, suffix=".webp")[:-100], "not a readable"),
    "cut TIFF": (".tif", lambda: picture(4, suffix=".tiff")[: -len(picture(4, suffix=".tiff")) // 2], ""),
    "empty": (".png", lambda: b"", "empty file"),
    "text": (".png", lambda: b"hello", "not a readable"),
    "bomb": (".png", make_bomb, "decompression bomb: 60000 x 60000 pixels"),
    "bomb of no area": (".png", lambda: make_bomb(0, 5), "no pixels"),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_image_is_left_out(tmp_path: Path, damage: str) -> None:
    suffix, make, message = DAMAGES[damage]
    name = f"flange/test/scratch/000{suffix}"
    files = {n: d for n, d in mvtec_files("flange", "scratch").items() if n != "flange/test/scratch/000.png"}
    source = write_tar(tmp_path / "set.tar", {name: make()} | files)
    pulled = pull_set(tmp_path, "folder", source)
    assert [(row["reason"], row["item"]) for row in pulled.left_out] == [("damaged image", name)]
    assert message in pulled.left_out[0]["detail"]
    assert pulled.manifest["left_out"] == {"damaged image": 1}
    assert pulled.samples.height == 4
    with pytest.raises(
        IndusCotError, match=rf"000{suffix}: damaged image .*run.strict is true, so the stage stops here"
    ):
        pull_set(tmp_path / "strict", "folder", source, strict=True)
    assert_nothing_pulled(tmp_path / "strict")


def make_rotated_image(suffix: str, orientation: int) -> bytes:
    """Make an image of fixed noise with an EXIF orientation."""
    image = Image.open(io.BytesIO(picture(4)))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    image.save(file, Image.registered_extensions()[suffix], exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_rotated_image_is_left_out(tmp_path: Path, suffix: str) -> None:
    turned, upright = f"flange/test/scratch/turned{suffix}", f"flange/test/scratch/upright{suffix}"
    files = mvtec_files("flange", "scratch") | {
        turned: make_rotated_image(suffix, 6),
        upright: make_rotated_image(suffix, 1),
    }
    pulled = pull_set(tmp_path, "folder", write_tar(tmp_path / "set.tar", files))
    assert pulled.left_out == [
        {
            "reason": "rotated by EXIF",
            "item": turned,
            "detail": "EXIF orientation 6: save the pixels upright, without the tag",
        }
    ]
    assert pulled.samples.height == 6
    assert pulled.row(upright)["width"] == 64


def test_xmp_orientation_is_checked(tmp_path: Path) -> None:
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="8"/></x:xmpmeta>'
    jpeg = picture(4, suffix=".jpg")
    payload = b"http://ns.adobe.com/xap/1.0/\0" + packet
    jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]
    png = picture(4)
    png = png[:33] + make_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet) + png[33:]
    files = mvtec_files("flange", "scratch") | {"flange/test/scratch/x.jpg": jpeg, "flange/test/scratch/y.png": png}
    pulled = pull_set(tmp_path, "folder", write_tar(tmp_path / "set.tar", files))
    assert {(row["reason"], row["item"]) for row in pulled.left_out} == {
        ("rotated by EXIF", "flange/test/scratch/x.jpg"),
        ("rotated by EXIF", "flange/test/scratch/y.png"),
    }


def test_all_images_damaged(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "mvtec", {"bottle/test/good/000.png": b"x", "bottle/test/good/001.png": b"y"})
    with pytest.raises(IndusCotError, match=r"no sample could be made of it; left out:\n  bottle/test/good/000\.png"):
        pull_set(tmp_path, "mvtec_ad", source)
    assert_nothing_pulled(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (mask((1, 1, 9, 9), width=65), "mask of another size"),
        (None, "missing mask"),
        (mask(), "empty mask"),
        (mask((1, 1, 9, 9))[:-20], "damaged mask"),
    ],
)
def test_unusable_mask_drops_only_boxes(tmp_path: Path, change: bytes | None, reason: str) -> None:
    name = "bottle/ground_truth/contamination/000_mask.png"
    files: Files = {n: d for n, d in mvtec_files().items() if n != name}
    source = write_folder(tmp_path / "mvtec", files | ({name: change} if change is not None else {}))
    pulled = pull_set(tmp_path, "mvtec_ad", source)
    assert pulled.counts["by_split_label"] == {"test anomalous": 2, "test normal": 1, "train normal": 2}
    assert [(row["reason"], row["item"]) for row in pulled.warnings] == [(reason, name)]
    assert pulled.counts["warnings"] == {reason: 1}
    row = pulled.row("bottle/test/contamination/000.png")
    assert row["boxes"] == []
    assert row["defect_type"] is not None
    with pytest.raises(IndusCotError, match=f"{name}: {reason}"):
        pull_set(tmp_path / "strict", "mvtec_ad", source, strict=True)
    assert_nothing_pulled(tmp_path / "strict")


NOISE = np.random.default_rng(1).bytes(6 * 64)
PIXELS = zlib.compress(NOISE)


def make_chunked_png(size: int) -> bytes:
    """Make a PNG with its pixels in chunks of ``size`` bytes, as libpng writes them; the last chunk is shorter."""
    header = make_chunk(b"IHDR", struct.pack(">IIBBBBB", 63, 6, 8, 0, 0, 0, 0))
    pixels = b"".join(make_chunk(b"IDAT", PIXELS[start : start + size]) for start in range(0, len(PIXELS), size))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + make_chunk(b"IEND", b"")


@given(st.integers(10, 500), st.data())
def test_checksums_cover_every_png_byte(size: int, data: st.DataObject) -> None:
    whole = make_chunked_png(size)
    assert read_header(whole) == Header(63, 6, 1, "PNG")
    damaged = bytearray(whole)
    place = data.draw(st.integers(33, len(whole) - 13))
    for offset, change in enumerate(data.draw(st.lists(st.integers(1, 255), min_size=1, max_size=8))):
        damaged[min(place + offset, len(whole) - 13)] ^= change
    assume(damaged != whole)
    with pytest.raises(DamagedError):
        read_header(bytes(damaged))
