"""Writes pulled sets as the `pull` stage leaves them, for tests of the stages after it."""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import cv2
import numpy as np

from cot_builder.params import Params, load_params
from cot_builder.storage.images import encode_png
from cot_builder.storage.shards import ShardWriter
from cot_builder.storage.workspace import Workspace
from schemas.geometry import Box, from_pixels
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision
from tests.helpers.paths import ROOT


@dataclass(frozen=True)
class PulledImage:
    """One image of a pulled set; omitted fields are derived deterministically from the others."""

    category: str
    part: str
    view: str = "C1"
    defect: str | None = None
    """Leaf of the taxonomy; None for a normal sample."""
    split: Literal["train", "test"] = "test"
    path: str = ""
    data: bytes = b""
    """The image file; by default a PNG is drawn."""
    box: tuple[int, int, int, int] | None = (20, 24, 44, 40)
    """Box of the defect in pixels; None if the defect has no box. Ignored for a normal sample."""
    area_fraction: float | None = 0.01
    region: tuple[int, int, int, int] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    """Fields of Sample to override."""

    @property
    def source_path(self) -> str:
        """Path inside the benchmark."""
        return self.path or f"{self.category}/{self.defect or 'good'}/{self.part}_{self.view}.png"

    def sample_id(self, set_name: str) -> str:
        """Return the sample id that :func:`write_pulled_set` gives the image."""
        return f"{set_name}/{self.category}/{hashlib.sha256(self.source_path.encode()).hexdigest()[:16]}"


def picture(key: str, width: int = 96, height: int = 80, contrast: float = 60.0) -> np.ndarray:
    """Return a BGR picture, uint8 (height, width, 3), with structure at every scale, always the same for a key."""
    random = np.random.default_rng(zlib.crc32(key.encode()))
    pixels = np.full((height, width, 3), 128.0, np.float32)
    for cells in (4, 9, 20):
        noise = random.normal(0, contrast, (cells, cells, 3)).astype(np.float32)
        pixels += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) / 2
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_pulled_set(workspace: Workspace, name: str, images: Sequence[PulledImage]) -> list[str]:
    """Write the shards and tables of a pulled set; return the sample ids in the order of ``images``."""
    folder = workspace.pull(name)
    samples, supervision = [], []
    with ShardWriter(folder, "image") as shards, ShardWriter(folder, "mask") as masks:
        for image in images:
            data = image.data or encode_png(_draw(image, f"{name}/{image.source_path}"))
            shard, row = shards.add(image.source_path, data)
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
            full_height, full_width = (80, 96) if pixels is None else pixels.shape[:2]
            x1, y1, x2, y2 = image.region or (0, 0, full_width, full_height)
            sample_id = image.sample_id(name)
            values = {
                "sample_id": sample_id,
                "source_set": name,
                "category": image.category,
                "view": image.view,
                "part_id": f"{image.category}/{image.part}",
                "split": image.split,
                "width": x2 - x1,
                "height": y2 - y1,
                "channels": 3,
                "image_format": "PNG" if data[:4] == b"\x89PNG" else "JPEG",
                "image_sha256": hashlib.sha256(data).hexdigest(),
                "shard": shard,
                "row": row,
                "region": image.region,
                "licence": "CC0-1.0",
            }
            samples.append(Sample.model_validate(values | image.extra))
            boxes: list[Box] = []
            mask_location: tuple[str, int] | tuple[None, None] = (None, None)
            if image.defect and image.box:
                boxes = [from_pixels(image.box, x2 - x1, y2 - y1)]
                mask = np.zeros((full_height, full_width), np.uint8)
                mask[image.box[1] : image.box[3], image.box[0] : image.box[2]] = 255
                mask_location = masks.add(image.source_path, encode_png(mask))
            supervision.append(
                Supervision(
                    sample_id=sample_id,
                    source_path=image.source_path,
                    label="anomalous" if image.defect else "normal",
                    raw_type=image.defect,
                    defect_type=image.defect,
                    boxes=boxes,
                    area_fraction=image.area_fraction if image.defect else 0.0,
                    mask_shard=mask_location[0],
                    mask_row=mask_location[1],
                )
            )
    SAMPLE.write(SAMPLE.frame(samples), folder / "sample.parquet")
    SUPERVISION.write(SUPERVISION.frame(supervision), folder / "supervision.parquet")
    return [sample.sample_id for sample in samples]


def params_for(sets: dict[str, tuple[str, str]], **settings: object) -> Params:
    """Return the default parameters with ``sets`` (name to benchmark and role) and ``section__key=value`` set."""
    params = load_params(root=ROOT).model_dump()
    params["pull"] = {
        name: {"benchmark": benchmark, "source": "unused", "role": role} for name, (benchmark, role) in sets.items()
    }
    for name, value in settings.items():
        section, _, key = name.partition("__")
        params[section][key] = value
    return Params.model_validate(params)


def _draw(image: PulledImage, key: str) -> np.ndarray:
    pixels = picture(key)
    if image.defect and image.box:
        x1, y1, x2, y2 = image.box
        cv2.rectangle(pixels, (x1, y1), (x2 - 1, y2 - 1), (10, 10, 10), -1)
    return pixels
