"""The benchmarks' masks, as an expert can paint on them."""

import numpy as np

from cot_builder.benchmarks.mask import read_marked_pixels
from cot_builder.storage.shards import ShardReader
from cot_builder.storage.workspace import Workspace
from schemas.sample import Sample
from schemas.supervision import SUPERVISION, Supervision


class Masks:
    """Masks of samples; their files stay open."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        truth: list[Supervision] = SUPERVISION.records(SUPERVISION.read(workspace.select / "supervision.parquet"))
        self._truth = {row.sample_id: row for row in truth}
        self._readers: dict[str, ShardReader] = {}

    @property
    def any(self) -> bool:
        """Whether any sample has one."""
        return any(row.mask_shard is not None for row in self._truth.values())

    def of(self, sample: Sample) -> np.ndarray | None:
        """bool (height, width) of the sample as it is inspected; None where none is published.

        Raises:
            IndusCotError: its shard is missing.
        """
        row = self._truth.get(sample.sample_id)
        if row is None or row.mask_shard is None or row.mask_row is None:
            return None
        reader = self._readers.setdefault(sample.source_set, ShardReader(self._workspace.pull(sample.source_set)))
        mask = read_marked_pixels(reader.get(row.mask_shard, row.mask_row)) > 0
        if sample.region is not None:
            left, top, right, bottom = sample.region
            mask = mask[top:bottom, left:right]
        return mask
