"""Make pairs of global and local patches, chunk by chunk; the result does not depend on workers or executor."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal, TypedDict

import cv2
import numpy as np

from cot_builder.inspection.proposals import Proposal, propose
from cot_builder.params import Params
from cot_builder.params import Patch as PatchParams
from cot_builder.progress import track
from cot_builder.storage.images import UndecodableError, encode_png
from cot_builder.storage.output import stage_output, write_text
from cot_builder.storage.parallel import process_map
from cot_builder.storage.samples import SampleImages
from cot_builder.storage.shards import ShardWriter
from cot_builder.storage.workspace import Workspace, file_hash
from schemas.errors import IndusCotError
from schemas.geometry import SCALE, Box, expand, intersection, to_pixels
from schemas.patch import PATCH, PatchPair
from schemas.sample import SAMPLE, Sample
from schemas.supervision import SUPERVISION, Supervision

PATCH_VERSION = "2"
"""Increase it with every change of how patches are made, so that a resumed run does not mix two versions."""
CHUNK_SAMPLES = 16
"""Samples in a chunk, the unit of work that a killed run may lose per worker."""
CONTEXT = 1.8
"""Side of a defect-centred patch divided by the side of the defect's box."""
MIN_SIDE = 110
"""Shortest side of a defect-centred patch, in 0-1000."""
MIN_SIDE_SAMPLES = 32
"""To measure conspicuousness, a patch is subsampled to about this many pixels along its shorter side."""


@dataclass(frozen=True)
class Patch:
    """One local patch of a sample."""

    kind: Literal["proposal", "defect", "hard_normal"]
    box: Box
    rank: int
    score: float
    method: Literal["foreground", "centre", "supervision"]


class Chunk(TypedDict):
    """A chunk of samples with their supervision, as sent to a worker."""

    number: int
    samples: list[Sample]
    truths: list[Supervision]


def patch(params: Params, workspace: Workspace) -> None:
    """Write ``data/patch``: ``patch.parquet``, and for each chunk a shard of global views and local patches as PNG.

    A run that was killed resumes with its unfinished chunks.

    Raises:
        IndusCotError: an earlier stage has not run; ``compute.executor`` is ray but Ray is not installed; the run is
            strict and an image is damaged; a shard of pulled images is missing; the operating system killed a worker.
    """
    paths = {name: workspace.select / f"{name}.parquet" for name in ("sample", "supervision")}
    inputs = {name: file_hash(path) for name, path in paths.items()}
    truths = {row.sample_id: row for row in SUPERVISION.records(SUPERVISION.read(paths["supervision"]))}
    # Sort in storage order, so that samples of one shard are read together.
    samples = SAMPLE.records(SAMPLE.read(paths["sample"]).sort("source_set", "shard", "row", "sample_id"))
    chunks = [
        Chunk(number=number, samples=part, truths=[truths[sample.sample_id] for sample in part])
        for number, part in enumerate(
            samples[start : start + CHUNK_SAMPLES] for start in range(0, len(samples), CHUNK_SAMPLES)
        )
    ]
    settings = params.patch.model_dump() | {"seed": params.run.seed, "patch_version": PATCH_VERSION}
    with stage_output(
        workspace.patch, stage="patch", params=settings, inputs=inputs, strict=params.run.strict, resumable=True
    ) as output:
        open_chunks = [chunk for chunk in chunks if not _rows_path(output.path, chunk["number"]).exists()]
        work = _PatchWriter(workspace, output.path, params.patch, params.run.seed)
        run = _run_on_ray if params.compute.executor == "ray" else _run_on_processes
        for _ in track(run(work, open_chunks, params.compute.workers), "patch (chunks)", len(open_chunks)):
            pass
        rows: list[PatchPair] = []
        for chunk in chunks:
            file = _rows_path(output.path, chunk["number"])
            done = json.loads(file.read_text())
            rows += [PatchPair.model_validate(row) for row in done["rows"]]
            for sample_id, reason in done["damaged"]:
                output.leave_out("damaged image", sample_id, reason)
            file.unlink()
        PATCH.write(PATCH.frame(rows), output.path / "patch.parquet")
        kinds: Counter[str] = Counter(row.kind for row in rows)
        output.counts |= {"samples": len(samples), "patches": len(rows)} | dict(sorted(kinds.items()))


def patch_sample(image: np.ndarray, sample_id: str, truth: Supervision, params: PatchParams, seed: int) -> list[Patch]:
    """Choose the local patches of one image.

    Proposals are found without the ground truth. A defect-centred patch contains the whole box of the defect with
    context, shifted off centre by up to ``params.jitter`` of its side. Hard-normal patches are the most conspicuous
    proposals that do not overlap a ground-truth box; on a defect-free image, those after the first
    ``params.proposals``.

    Args:
        image: uint8 (height, width, 3) BGR.
        sample_id: Determines the jitter, together with ``seed``.
        truth: Supervision of the sample.
        params: The ``patch`` section.
        seed: Seed of the run.
    """
    found = propose(image, params.proposals + params.hard_normal + 2 * len(truth.boxes) + 1)
    patches = [
        Patch("proposal", item.box, rank, item.score, item.method)
        for rank, item in enumerate(found[: params.proposals])
    ]
    random = Random(hashlib.sha256(f"{seed}/{sample_id}".encode()).digest())
    for rank, box in enumerate(truth.boxes):
        around = _jitter_box(box, params.jitter, random)
        patches.append(Patch("defect", around, rank, _measure_conspicuousness(image, around), "supervision"))
    hard = _find_hard_normal(found, truth, params)
    patches += [Patch("hard_normal", item.box, rank, item.score, item.method) for rank, item in enumerate(hard)]
    return patches


def _find_hard_normal(found: list[Proposal], truth: Supervision, params: PatchParams) -> list[Proposal]:
    if truth.label == "anomalous" and not truth.boxes:
        return []  # The location of the defect is unknown, so no region is known to be defect-free.
    start = 0 if truth.boxes else params.proposals
    free = [item for item in found[start:] if not any(intersection(item.box, box) for box in truth.boxes)]
    return free[: params.hard_normal]


def _jitter_box(box: Box, jitter: float, random: Random) -> Box:
    wide = expand(box, CONTEXT, MIN_SIDE)
    spans = []
    for low, high, start, end in ((box[0], box[2], wide[0], wide[2]), (box[1], box[3], wide[1], wide[3])):
        side = end - start
        shifted = round(start + random.uniform(-jitter, jitter) * side)
        # Keep the whole defect inside the patch, and the patch inside the image.
        shifted = min(max(shifted, high - side, 0), low, SCALE - side)
        spans.append((shifted, shifted + side))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def _measure_conspicuousness(image: np.ndarray, box: Box) -> float:
    """Return the mean absolute difference, in grey levels, of the box to the median colour of its surroundings."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = to_pixels(box, width, height)
    left, top, right, bottom = to_pixels(expand(box, 2.0), width, height)
    step = max(1, min(x2 - x1, y2 - y1) // MIN_SIDE_SAMPLES)
    around = image[top:bottom:step, left:right:step].reshape(-1, 3)
    inside = image[y1:y2:step, x1:x2:step].reshape(-1, 3)
    return round(float(np.abs(inside - np.median(around, axis=0)).mean()), 2)


def crop_patch(image: np.ndarray, box: Box, longest: int) -> np.ndarray:
    """Crop ``box``, and downscale the crop if a side is longer than ``longest`` pixels."""
    x1, y1, x2, y2 = to_pixels(box, image.shape[1], image.shape[0])
    return shrink_image(image[y1:y2, x1:x2], longest)


def shrink_image(image: np.ndarray, longest: int) -> np.ndarray:
    """Downscale the image if a side is longer than ``longest`` pixels."""
    scale = longest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class _PatchWriter:
    workspace: Workspace
    staging: Path
    params: PatchParams
    seed: int

    def __call__(self, chunk: Chunk) -> int:
        """Write the shard of a chunk and then its rows, so that existing rows imply a complete shard."""
        number = chunk["number"]
        images = SampleImages(self.workspace)
        rows: list[PatchPair] = []
        damaged: list[tuple[str, str]] = []
        name = f"patches-{number:05d}"
        with ShardWriter(self.staging, f".{name}") as writer:
            for sample, truth in zip(chunk["samples"], chunk["truths"], strict=True):
                try:
                    image = images.pixels(sample)
                except UndecodableError as error:
                    damaged.append((sample.sample_id, str(error)))
                    continue
                rows += self._write(image, sample, truth, writer)
        for shard in self.staging.glob(f".{name}-*.parquet"):
            os.replace(shard, shard.with_name(shard.name[1:]))
        text = json.dumps({"rows": [row.model_dump() for row in rows], "damaged": damaged})
        write_text(_rows_path(self.staging, number), text)
        return number

    def _write(self, image: np.ndarray, sample: Sample, truth: Supervision, writer: ShardWriter) -> Iterator[PatchPair]:
        key = sample.sample_id
        patches = patch_sample(image, key, truth, self.params, self.seed)
        if not patches:
            return  # Without patches, no row would refer to the global view.
        global_shard, global_row = writer.add(f"{key}#global", encode_png(shrink_image(image, self.params.global_size)))
        for number, item in enumerate(patches):
            pixels = crop_patch(image, item.box, self.params.local_size)
            shard, row = writer.add(f"{key}#{number}", encode_png(pixels))
            yield PatchPair(
                patch_id=f"{key}#{number}",
                sample_id=key,
                kind=item.kind,
                box=item.box,
                rank=item.rank,
                score=item.score,
                method=item.method,
                width=pixels.shape[1],
                height=pixels.shape[0],
                shard=shard[1:],
                row=row,
                global_shard=global_shard[1:],
                global_row=global_row,
            )


def _rows_path(staging: Path, number: int) -> Path:
    return staging / f".rows-{number:05d}.json"


def _run_on_processes(work: _PatchWriter, chunks: list[Chunk], workers: int) -> Iterator[int]:
    yield from process_map(work, chunks, max(1, min(workers, len(chunks))))


def _run_on_ray(work: _PatchWriter, chunks: list[Chunk], workers: int) -> Iterator[int]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise IndusCotError("compute.executor: ray needs Ray Data; install it with `pip install -e '.[ray]'`") from None

    def run_chunk(row: dict[str, Chunk]) -> dict[str, int]:
        cv2.setNumThreads(1)
        return {"number": work(row["chunk"])}

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = not ray.is_initialized()
    if started:
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    # `track` already shows the progress.
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        rows = ray.data.from_items([{"chunk": chunk} for chunk in chunks], override_num_blocks=max(1, len(chunks)))
        done = rows.map(run_chunk)
        yield from (row["number"] for row in done.iter_rows())
    finally:
        if started:
            ray.shutdown()
