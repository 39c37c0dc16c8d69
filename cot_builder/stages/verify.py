"""Replays every tool call of a corpus and compares with what it recorded."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.progress import track
from cot_builder.storage.images import decode
from schemas.errors import IndusCotError
from schemas.prior import PRIOR
from schemas.trajectory import Trajectory, Turn

COLUMNS = ("id", "image", "image_sha256", "region", "images", "trajectory", "toolbox_version")


def verify(corpus: Path) -> tuple[int, int]:
    """Check every stored image's hash and re-run every call.

    Texts must be equal and images equal pixel by pixel. The stored PNG bytes are held to their hash, the
    replayed ones are not: another libpng may pack the same pixels otherwise.

    Returns:
        Number of trajectories and of calls.

    Raises:
        IndusCotError: no corpus is there, or the first difference, by row, turn and tool.
    """
    shards = sorted((corpus / "data").glob("*.parquet"))
    if not shards:
        raise IndusCotError(f"{corpus}: no data/*.parquet; is this a corpus? `indus-cot assemble` writes one")
    table = PRIOR.read(corpus / "priors" / "priors.parquet")
    priors = {(row["category"], row["view"]): row["text"] for row in table.iter_rows(named=True)}
    rows = calls = 0
    for shard in shards:
        try:
            file = pq.ParquetFile(shard)
            total = file.metadata.num_rows
            batches = file.iter_batches(batch_size=8, columns=list(COLUMNS))
            records = (record for batch in batches for record in batch.to_pylist())
            for record in track(records, f"verify {shard.name}", total):
                calls += _verify_row(record, priors, f"{shard.name}, row {record['id']}")
                rows += 1
        except OSError as error:
            raise IndusCotError(f"{shard}: damaged parquet file ({error})") from error
    return rows, calls


def _verify_row(record: dict[str, Any], priors: dict[tuple[str, str], str], where: str) -> int:
    original, images = record["image"]["bytes"], [image["bytes"] for image in record["images"]]
    if hashlib.sha256(original).hexdigest() != record["image_sha256"]:
        raise IndusCotError(f"{where}: the image differs from its sha256")
    pixels = decode(original, record["region"] and tuple(record["region"]), where)
    if record["region"] is None and images[0] != original:
        raise IndusCotError(f"{where}: the first of images is not the inspected image")
    if not np.array_equal(decode(images[0], name=where), pixels):
        raise IndusCotError(f"{where}: the first of images does not show the inspected region")
    toolbox = Toolbox(pixels, priors)
    turns = Trajectory.model_validate(json.loads(record["trajectory"])).turns[:-1]
    stored = iter(images[1:])
    for number, turn in enumerate(turns, 1):
        assert turn.call is not None
        _verify_turn(
            turn, toolbox, stored, f"{where}, turn {number}, {turn.call.tool}({json.dumps(turn.call.arguments)})"
        )
    if next(stored, None) is not None:
        raise IndusCotError(f"{where}: holds more images than its calls returned")
    return len(turns)


def _verify_turn(turn: Turn, toolbox: Toolbox, stored: Any, where: str) -> None:
    assert turn.call is not None and turn.observation is not None
    recorded = turn.observation
    again, png = toolbox.observe(turn.call)
    if again.text != recorded.text:
        raise IndusCotError(f"{where}: returned {again.text!r}, recorded is {recorded.text!r}")
    if (png is None) != (recorded.image_sha256 is None):
        raise IndusCotError(
            f"{where}: {'an image' if png is None else 'no image'} is recorded, the tool returns otherwise"
        )
    if png is None:
        return
    kept = next(stored, None)
    if kept is None:
        raise IndusCotError(f"{where}: its image is missing")
    if hashlib.sha256(kept).hexdigest() != recorded.image_sha256:
        raise IndusCotError(f"{where}: the stored image differs from its sha256")
    if not np.array_equal(decode(kept, name=where), decode(png, name=where)):
        raise IndusCotError(f"{where}: the tool returns other pixels than the stored image")
