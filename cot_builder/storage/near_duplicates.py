"""Images that show the same picture: perceptual hashes, and a finer look at what they bring together."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import cv2
import imagehash
import numpy as np
import polars as pl
from PIL import Image

from cot_builder.progress import track
from cot_builder.storage.parallel import process_map
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace

THUMBNAIL_SIDE = 32
"""Of a thumbnail, pixels: what imagehash's perceptual hash is computed from."""
MIN_CORRELATION = 0.95
MIN_CONTRAST = 1.5
"""Standard deviation of a thumbnail, in grey levels, below which an image is featureless."""
BLOCK_ROWS = 256
MAX_INLINE_IMAGES = 400
COMPARE_BATCH = 4096
_REDUCED = {
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    1: cv2.IMREAD_GRAYSCALE,
}


@dataclass(frozen=True)
class Fingerprints:
    """One row an image that decodes."""

    sample_ids: list[str]
    hashes: np.ndarray
    """uint64 (n,): 64-bit perceptual hashes."""
    thumbnails: np.ndarray
    """uint8 (n, 32, 32), grey; on disk, so that memory does not grow with the data set."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Sample id to what is wrong with the image."""


@dataclass(frozen=True)
class NearPairs:
    """Pairs of two sets of fingerprints, by row, sorted."""

    pairs: list[tuple[int, int, int, float]]
    """(row of the first, row of the second, differing bits, correlation of the thumbnails)."""
    refused: int
    """Pairs whose hashes agree and whose thumbnails do not."""


def make_thumbnail(data: bytes, width: int, height: int, region: tuple[int, int, int, int] | None) -> np.ndarray | None:
    """Image file to a uint8 (32, 32) grey thumbnail of its region; None where it does not decode.

    Args:
        data: The file.
        width: Of the region, in pixels: with ``height`` it tells how far the decoder may shrink.
        height: Of the region, in pixels.
        region: Half-open pixel box of the file's image; None is all of it.
    """
    shrink = next(factor for factor in _REDUCED if factor == 1 or min(width, height) >= 2 * THUMBNAIL_SIDE * factor)
    flags = _REDUCED[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:
        grey = None
    if grey is None:
        return None
    if region is not None:
        x1, y1, x2, y2 = (value / shrink for value in region)
        grey = grey[int(y1) : max(round(y2), int(y1) + 1), int(x1) : max(round(x2), int(x1) + 1)]
    return cv2.resize(grey, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA) if grey.size else None


def compute_perceptual_hash(thumbnail: np.ndarray) -> np.uint64:
    """imagehash's 64-bit pHash of a (32, 32) thumbnail."""
    bits = imagehash.phash(Image.fromarray(thumbnail)).hash
    return np.packbits(bits).view(np.uint64)[0]


def compute_fingerprints(
    workspace: Workspace, samples: pl.DataFrame, workers: int, scratch: Path, description: str
) -> Fingerprints:
    """Fingerprints of samples, by ``workers`` processes; thumbnails are kept in the file ``scratch``.

    Raises:
        IndusCotError: a shard is missing or damaged; the system ended a worker.
    """
    columns = ["source_set", "shard", "row", "sample_id", "width", "height", "region"]
    ordered = samples.select(columns).sort("source_set", "shard", "row", "sample_id")
    blocks = [
        part.slice(start, BLOCK_ROWS).rows()
        for part in ordered.partition_by("source_set", "shard", maintain_order=True)
        for start in range(0, part.height, BLOCK_ROWS)
    ]
    thumbnails = np.lib.format.open_memmap(
        scratch, "w+", np.uint8, (max(ordered.height, 1), THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    )
    sample_ids: list[str] = []
    hashes: list[np.uint64] = []
    damaged: dict[str, str] = {}
    work = partial(_fingerprint_block, workspace)
    done = process_map(work, blocks, workers if ordered.height > MAX_INLINE_IMAGES else 1)
    for sample_id, thumbnail, value in track((item for block in done for item in block), description, ordered.height):
        if isinstance(thumbnail, str):
            damaged[sample_id] = thumbnail
            continue
        thumbnails[len(sample_ids)] = thumbnail
        sample_ids.append(sample_id)
        hashes.append(value)
    return Fingerprints(sample_ids, np.array(hashes, np.uint64), thumbnails[: len(sample_ids)], damaged)


_Block = list[tuple[str, str, int, str, int, int, list[int] | None]]
_Done = list[tuple[str, np.ndarray | str, np.uint64]]
"""Sample id, its thumbnail or what is wrong with the image, its hash."""


def _fingerprint_block(workspace: Workspace, block: _Block) -> _Done:
    reader = ShardReader(workspace.pull(block[0][0]))
    done: _Done = []
    for _, shard, row, sample_id, width, height, region in block:
        box = None if region is None else (region[0], region[1], region[2], region[3])
        thumbnail = make_thumbnail(reader.get(shard, row), width, height, box)
        if thumbnail is None:
            done.append((sample_id, f"{shard}, row {row}", np.uint64(0)))
        else:
            done.append((sample_id, thumbnail, compute_perceptual_hash(thumbnail)))
    return done


def find_near_pairs(first: Fingerprints, second: Fingerprints, bits: int) -> NearPairs:
    """Pairs whose hashes differ in at most ``bits`` bits and whose thumbnails show the same picture.

    A perceptual hash keeps the signs of 64 low frequencies: it brings copies together, and also different
    pictures of one rough shape, and all featureless ones. So a pair counts only where the normalised
    correlation of the thumbnails is at least 0.95 (a copy, re-encoded or resized, has about 0.99) and both
    have a contrast of at least 1.5 grey levels. Featureless images are told apart by their bytes alone.
    """
    (left, members), (right, others) = _group_by_hash(first), _group_by_hash(second)
    pairs: list[tuple[int, int, int, float]] = []
    refused = 0
    for a, b, distance in _find_close_hashes(left, right, bits):
        rows = np.stack([axis.ravel() for axis in np.meshgrid(members[a], others[b], indexing="ij")], axis=1)
        for start in range(0, len(rows), COMPARE_BATCH):
            one, two = rows[start : start + COMPARE_BATCH].T
            agreement = correlate_thumbnails(first.thumbnails[one], second.thumbnails[two])
            same = agreement >= MIN_CORRELATION
            refused += int((~same).sum())
            pairs += [
                (int(i), int(j), distance, round(float(value), 4))
                for i, j, value in zip(one[same], two[same], agreement[same], strict=True)
            ]
    return NearPairs(sorted(pairs), refused)


def _find_close_hashes(left: np.ndarray, right: np.ndarray, bits: int) -> Iterator[tuple[int, int, int]]:
    for start in range(0, len(left), BLOCK_ROWS):
        distance = np.bitwise_count(left[start : start + BLOCK_ROWS, None] ^ right[None, :])
        for a, b in zip(*np.nonzero(distance <= bits), strict=True):
            yield start + int(a), int(b), int(distance[a, b])


def _group_by_hash(images: Fingerprints) -> tuple[np.ndarray, list[np.ndarray]]:
    """Distinct hashes of images that are not featureless, and the rows that have each."""
    rows = np.flatnonzero(~is_featureless(images))
    rows = rows[np.argsort(images.hashes[rows], kind="stable")]
    values, starts = np.unique(images.hashes[rows], return_index=True)
    return values, np.split(rows, starts[1:])


def correlate_thumbnails(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Normalised correlation of (n, 32, 32) thumbnails pair by pair, in [-1, 1]; 0 where one is flat."""
    a, b = (part.reshape(len(part), -1).astype(np.float32) for part in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(1), norm, out=np.zeros_like(norm), where=norm > 0)


def is_featureless(images: Fingerprints) -> np.ndarray:
    """Bool (n,): images whose thumbnail has next to no contrast."""
    small = images.thumbnails
    blocks = [small[start : start + COMPARE_BATCH] for start in range(0, len(small), COMPARE_BATCH)]
    return np.concatenate([np.zeros(0), *(block.std(axis=(1, 2)) for block in blocks)]) < MIN_CONTRAST
