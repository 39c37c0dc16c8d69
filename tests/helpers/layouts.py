"""Builds small data sets in each official layout, as {path: bytes}; packs and pulls them."""

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl

from cot_builder.params import load_params
from cot_builder.stages.pull import pull
from cot_builder.storage.output import read_manifest
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.sample import SAMPLE
from schemas.supervision import SUPERVISION
from tests.helpers.paths import ROOT

Files = dict[str, bytes]
Rectangle = tuple[int, int, int, int]


def picture(seed: int, width: int = 64, height: int = 48, suffix: str = ".png", grey: bool = False) -> bytes:
    """Return an image file of noise, always the same for the same arguments."""
    shape = (height, width) if grey else (height, width, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def mask(*boxes: Rectangle, width: int = 64, height: int = 48, value: int = 255, suffix: str = ".png") -> bytes:
    """Return a mask file in which the half-open pixel boxes are marked."""
    pixels = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = value
    return cv2.imencode(suffix, pixels)[1].tobytes()


def mvtec_files(category: str = "bottle", kind: str = "contamination") -> Files:
    """Return three normal images (two for training) and two anomalous ones."""
    return {
        f"{category}/train/good/000.png": picture(1),
        f"{category}/train/good/001.png": picture(2),
        f"{category}/test/good/000.png": picture(3),
        f"{category}/test/{kind}/000.png": picture(4),
        f"{category}/test/{kind}/001.png": picture(5),
        f"{category}/ground_truth/{kind}/000_mask.png": mask((8, 12, 24, 24)),
        f"{category}/ground_truth/{kind}/001_mask.png": mask((32, 0, 64, 48), (0, 0, 8, 8)),
    }


def mpdd_files() -> Files:
    """Return a data set with the published image counts and folder names of MPDD and random pictures."""
    published = {
        "bracket_black": (289, 32, 47, "scratches"), "bracket_brown": (185, 26, 51, "parts_mismatch"),
        "bracket_white": (110, 30, 30, "defective_painting"), "connector": (128, 30, 14, "parts_mismatch"),
        "metal_plate": (54, 26, 71, "scratches"), "tubes": (122, 32, 69, "anomalous"),
    }  # fmt: skip
    files: Files = {}
    for category, (train, good, anomalous, kind) in published.items():
        for folder, count in (("train/good", train), ("test/good", good), (f"test/{kind}", anomalous)):
            for number in range(count):
                files[f"{category}/{folder}/{number:03d}.png"] = picture(len(files), 24, 16)
        for number in range(anomalous):
            marks = mask((4, 4, 12, 10), width=24, height=16)
            files[f"{category}/ground_truth/{kind}/{number:03d}_mask.png"] = marks
    return files


def csv_bytes(rows: list[dict[str, Any]], delimiter: str = ",") -> bytes:
    """Return rows as a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def visa_files(name: str = "candle") -> Files:
    """Return two normal images, one of them for testing, and two anomalous ones, one of them with two types."""
    normal, anomalous = f"{name}/Data/Images/Normal", f"{name}/Data/Images/Anomaly"
    masks = f"{name}/Data/Masks/Anomaly"
    split = [
        ("train", "normal", f"{normal}/0000.JPG", ""),
        ("test", "normal", f"{normal}/0001.JPG", ""),
        ("test", "anomaly", f"{anomalous}/000.JPG", f"{masks}/000.png"),
        ("test", "anomaly", f"{anomalous}/001.JPG", f"{masks}/001.png"),
    ]
    types = {split[0][2]: "normal", split[1][2]: "normal", split[2][2]: "Bent", split[3][2]: "Scratches,Bent"}
    files = {image: picture(10 + number, suffix=".jpg") for number, (_, _, image, _) in enumerate(split)}
    files[split[2][3]] = mask((8, 12, 24, 24), value=1)
    files[split[3][3]] = mask((0, 0, 16, 12), value=7)
    rows = [{"object": name, "split": s, "label": k, "image": i, "mask": m} for s, k, i, m in split]
    files["split_csv/1cls.csv"] = csv_bytes(rows)
    files[f"{name}/image_anno.csv"] = csv_bytes([{"image": i, "label": types[i], "mask": m} for _, _, i, m in split])
    return files


def real_iad_row(category: str, split_folder: str, code: str, number: int, view: int, masked: bool) -> dict[str, Any]:
    """Return one row of Real-IAD's JSON; ``split_folder`` is OK or NG/<code>."""
    stem = f"{split_folder}/S{number:04d}/{category}_{number:04d}_{split_folder.replace('/', '_')}_C{view}_20231021"
    mask_path = f"{stem}.png" if masked else None
    return {"category": category, "anomaly_class": code, "image_path": f"{stem}.jpg", "mask_path": mask_path}


def real_iad_files(category: str = "toy", folder: str = "realiad_1024") -> Files:
    """Return a training part, and a normal and a scratched test part; only view 1 of 2 shows the scratch."""
    rows = {
        "meta": {"prefix": f"{category}/", "normal_class": "OK", "pre_transform": False},
        "train": [real_iad_row(category, "OK", "OK", 1, view, False) for view in (1, 2)],
        "test": [real_iad_row(category, "OK", "OK", 2, view, False) for view in (1, 2)]
        + [
            real_iad_row(category, "NG/HS", "HS", 1, 1, True),
            real_iad_row(category, "NG/HS", "OK", 1, 2, False),
        ],
    }
    files: Files = {f"realiad_jsons/{category}.json": json.dumps(rows).encode()}
    for number, row in enumerate([*rows["train"], *rows["test"]]):  # type: ignore[misc]
        files[f"{folder}/{category}/{row['image_path']}"] = picture(20 + number, suffix=".jpg")
        if row["mask_path"]:
            files[f"{folder}/{category}/{row['mask_path']}"] = mask((8, 12, 24, 24))
    return files


def sdd_files() -> Files:
    """Return a normal image, one with a defect across a cut, and two identical ones with different labels."""
    tall = {"width": 50, "height": 121}
    twin = picture(33, **tall, suffix=".jpg", grey=True)
    return {
        "kos05/Part0.jpg": picture(30, **tall, suffix=".jpg", grey=True),
        "kos05/Part0_label.bmp": mask(**tall, suffix=".bmp"),
        "kos15/Part3.jpg": picture(31, **tall, suffix=".jpg", grey=True),
        # Thirds of 121 rows: 0-40, 40-80, 80-121.
        "kos15/Part3_label.bmp": mask((10, 76, 20, 84), **tall, value=1, suffix=".bmp"),
        "kos01/Part1.jpg": twin,
        "kos01/Part1_label.bmp": mask(**tall, suffix=".bmp"),
        "kos26/Part1.jpg": twin,
        "kos26/Part1_label.bmp": mask((0, 50, 5, 55), **tall, suffix=".bmp"),
    }


def write_folder(root: Path, files: Files) -> Path:
    """Write files to a folder."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_tar(path: Path, files: Files) -> Path:
    """Write files as .tar, .tar.gz or .tar.xz, according to the suffix of ``path``."""
    kind = path.suffix.removeprefix(".")
    with tarfile.open(path, "w" if kind == "tar" else f"w:{kind}") as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path: Path, files: Files) -> Path:
    """Write files as .zip."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


class PulledSet:
    """The output of `pull` for one set."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        self.folder = workspace.pull(name)
        self.samples = SAMPLE.read(self.folder / "sample.parquet")
        self.supervision = SUPERVISION.read(self.folder / "supervision.parquet")
        self.manifest = read_manifest(self.folder)
        self.counts = self.manifest["counts"]
        self.left_out = pl.read_csv(self.folder / "left_out.csv", infer_schema=False).rows(named=True)
        self.warnings = pl.read_csv(self.folder / "warnings.csv", infer_schema=False).rows(named=True)

    def row(self, source_path: str, number: int = 0) -> dict[str, Any]:
        """Return sample and supervision of an image, joined."""
        chosen = self.supervision.filter(pl.col("source_path") == source_path)
        return self.samples.join(chosen, on="sample_id", how="inner").row(number, named=True)

    def stored(self, shard: str, row: int) -> bytes:
        """Return the bytes of a row of a shard."""
        return ShardReader(self.folder).get(shard, row)


def settings(
    benchmark: str, source: str | list[str], name: str = "mine", strict: bool = False, **extra: Any
) -> list[str]:
    """Return settings that name ``source`` as the set ``name``."""
    entry = {"benchmark": benchmark, "source": source, "role": "evaluate"} | extra
    return [f"pull.{name}={json.dumps(entry)}", f"run.strict={str(strict).lower()}"]


def pull_set(
    root: Path, benchmark: str, source: Path | str | list[str], strict: bool = False, **extra: Any
) -> PulledSet:
    """Pull ``source`` into a workspace at ``root``."""
    source = str(source) if isinstance(source, Path) else source
    params = load_params("default", settings(benchmark, source, strict=strict, **extra), ROOT)
    workspace = Workspace(root)
    pull("mine", params, workspace)
    return PulledSet(workspace, "mine")


def assert_nothing_pulled(root: Path) -> None:
    """Check that no set was pulled below ``root``."""
    folder = root / "data" / "pull"
    assert [path.name for path in folder.glob("*") if not path.name.endswith(".lock")] == []
