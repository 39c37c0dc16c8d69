"""A benchmark archive in MVTec AD's layout, of any number of photographs."""

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


def _add(archive: tarfile.TarFile, name: str, picture: np.ndarray) -> None:
    data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
