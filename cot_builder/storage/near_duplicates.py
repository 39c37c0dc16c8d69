"""Find near-duplicate images: compare perceptual hashes, then confirm each match on thumbnails."""

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
"""Side of a thumbnail in pixels, the size from which imagehash computes its perceptual hash."""
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
    """Perceptual hashes and thumbnails, one row for each image that decodes."""

    sample_ids: list[str]
    hashes: np.ndarray
    """uint64 (n,): 64-bit perceptual hashes."""
    thumbnails: np.ndarray
    """uint8 (n, 32, 32), grey; memory-mapped, so that memory does not grow with the data set."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Sample id to error message, for images that do not decode."""


@dataclass(frozen=True)
class NearPairs:
    """Near-duplicate pairs between two sets of fingerprints, sorted by row."""

    pairs: list[tuple[int, int, int, float]]
    """(row of the first, row of the second, differing bits, correlation of the thumbnails)."""
    refused: int
    """Number of pairs with close hashes and different thumbnails."""


def make_thumbnail(data: bytes, width: int, height: int, region: tuple[int, int, int, int] | None) -> np.ndarray | None:
    """Decode the region of an image file to a uint8 (32, 32) grey thumbnail; None if the file does not decode.

    Args:
        data: Content of the file.
        width: Width of the region in pixels; ``width`` and ``height`` limit how far the decoder may downscale.
        height: Height of the region in pixels.
        region: Half-open pixel box (x1, y1, x2, y2); None for the whole image.
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
    """Compute imagehash's 64-bit pHash of a (32, 32) thumbnail."""
    bits = imagehash.phash(Image.fromarray(thumbnail)).hash
    return np.packbits(bits).view(np.uint64)[0]


def compute_fingerprints(
    workspace: Workspace, samples: pl.DataFrame, workers: int, scratch: Path, description: str
) -> Fingerprints:
    """Compute the fingerprints of samples in ``workers`` processes; store the thumbnails in the file ``scratch``.

    Raises:
        IndusCotError: a shard is missing or damaged; the operating system killed a worker.
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
"""(sample id, thumbnail or error message, hash) of each image of a block."""


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
    """Find pairs whose hashes differ in at most ``bits`` bits and whose thumbnails show the same picture.

    A perceptual hash keeps the signs of 64 low frequencies. Copies have close hashes, but so do different pictures
    with a similar rough shape, and all featureless images. Therefore a pair counts only if the normalised
    correlation of the thumbnails is at least 0.95 (a re-encoded or resized copy has about 0.99) and both have a
    contrast of at least 1.5 grey levels. Featureless images can only be compared by their bytes.
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
    """Return the distinct hashes of images that are not featureless, and for each hash the rows that have it."""
    rows = np.flatnonzero(~is_featureless(images))
    rows = rows[np.argsort(images.hashes[rows], kind="stable")]
    values, starts = np.unique(images.hashes[rows], return_index=True)
    return values, np.split(rows, starts[1:])


def correlate_thumbnails(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the normalised correlation, in [-1, 1], of each pair of (n, 32, 32) thumbnails; 0 if one is flat."""
    a, b = (part.reshape(len(part), -1).astype(np.float32) for part in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.divide((a * b).sum(1), norm, out=np.zeros_like(norm), where=norm > 0)


def is_featureless(images: Fingerprints) -> np.ndarray:
    """Return bool (n,): whether each thumbnail has almost no contrast."""
    small = images.thumbnails
    blocks = [small[start : start + COMPARE_BATCH] for start in range(0, len(small), COMPARE_BATCH)]
    return np.concatenate([np.zeros(0), *(block.std(axis=(1, 2)) for block in blocks)]) < MIN_CONTRAST
