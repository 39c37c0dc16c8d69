"""Benchmark archives of any number of photographs: PNG in MVTec AD's layout, JPEG in VisA's."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np

SIDE = 900
CATEGORY = "bottle"


def write_archive(path: Path, images: int) -> None:
    """A .tar of ``images`` PNG photographs; every fourth is defective and has a mask."""
    random = np.random.default_rng(0)
    grain = random.integers(-18, 18, (SIDE, SIDE, 3), dtype=np.int16)
    slope = np.linspace(60, 190, SIDE, dtype=np.int16)[None, :, None]
    photograph = (slope + grain).clip(0, 255).astype(np.uint8)
    with tarfile.open(path, "w") as archive:
        for index in range(images):
            picture = np.roll(photograph, index * 7, axis=1)
            if index % 4:
                place = "train" if index % 4 < 3 else "test"
                _add(archive, f"{CATEGORY}/{place}/good/{index:05d}.png", picture)
                continue
            x, y = (int(v) for v in random.integers(50, SIDE - 120, 2))
            mask = np.zeros((SIDE, SIDE), np.uint8)
            cv2.circle(mask, (x + 30, y + 30), 25, 255, -1)
            picture[mask > 0] = picture[mask > 0] // 3
            _add(archive, f"{CATEGORY}/test/broken_small/{index:05d}.png", picture)
            _add(archive, f"{CATEGORY}/ground_truth/broken_small/{index:05d}_mask.png", mask)


def write_jpeg_archive(path: Path, images: int) -> None:
    """A .tar of ``images`` JPEG photographs as VisA has them: 1284 x 1168 px, about 180 kB; a tenth have a mask."""
    random = np.random.default_rng(0)
    height, width = 1168, 1284
    grain = cv2.GaussianBlur(random.integers(-40, 40, (height, width, 3)).astype(np.float32), (0, 0), 1.2)
    slope = np.linspace(60, 190, width, dtype=np.float32)[None, :, None]
    photograph = (slope + grain).clip(0, 255).astype(np.uint8)
    split, types = ["object,split,label,image,mask"], ["image,label,mask"]
    with tarfile.open(path, "w") as archive:
        for index in range(images):
            picture = np.roll(photograph, index * 7, axis=1)
            if index % 10:
                name = f"candle/Data/Images/Normal/{index:04d}.JPG"
                split.append(f"candle,{'test' if index % 10 == 1 else 'train'},normal,{name},")
            else:
                name, masked = (
                    f"candle/Data/Images/Anomaly/{index:04d}.JPG",
                    f"candle/Data/Masks/Anomaly/{index:04d}.png",
                )
                mask = np.zeros((height, width), np.uint8)
                cv2.circle(mask, (400, 300 + index % 500), 25, 1, -1)
                picture[mask > 0] = picture[mask > 0] // 3
                split.append(f"candle,test,anomaly,{name},{masked}")
                types.append(f"{name},chunk of wax missing,{masked}")
                _add(archive, masked, mask)
            _add(archive, name, picture, ".jpg")
        _add_bytes(archive, "split_csv/1cls.csv", "\n".join(split).encode())
        _add_bytes(archive, "candle/image_anno.csv", "\n".join(types).encode())


def _add(archive: tarfile.TarFile, name: str, picture: np.ndarray, suffix: str = ".png") -> None:
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 88]
    _add_bytes(archive, name, cv2.imencode(suffix, picture, options)[1].tobytes())


def _add_bytes(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
