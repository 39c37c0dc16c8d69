"""Reads the benchmarks' defect masks, in the form in which an expert can paint on them."""

import numpy as np

from cot_builder.benchmarks.mask import read_marked_pixels
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.sample import Sample
from schemas.supervision import SUPERVISION, Supervision


class MaskReader:
    """Reads the masks of samples; keeps their files open."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        rows: list[Supervision] = SUPERVISION.records(SUPERVISION.read(workspace.select / "supervision.parquet"))
        self._supervision = {row.sample_id: row for row in rows}
        self._readers: dict[str, ShardReader] = {}

    @property
    def has_masks(self) -> bool:
        """True if at least one sample has a mask."""
        return any(row.mask_shard is not None for row in self._supervision.values())

    def read(self, sample: Sample) -> np.ndarray | None:
        """Return the mask of the inspected image, bool (height, width); None if the benchmark publishes none.

        Raises:
            IndusCotError: the mask's shard is missing.
        """
        row = self._supervision.get(sample.sample_id)
        if row is None or row.mask_shard is None or row.mask_row is None:
            return None
        reader = self._readers.setdefault(sample.source_set, ShardReader(self._workspace.pull(sample.source_set)))
        mask = read_marked_pixels(reader.get(row.mask_shard, row.mask_row)) > 0
        if sample.region is not None:
            left, top, right, bottom = sample.region
            mask = mask[top:bottom, left:right]
        return mask
