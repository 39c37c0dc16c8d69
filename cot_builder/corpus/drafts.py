"""Convert drafts to and from table columns, and read the images of their observations."""

import hashlib
from pathlib import Path
from typing import Any

from cot_builder.storage.shards import ShardReader
from schemas.errors import IndusCotError
from schemas.trajectory import OBSERVATION, Draft, Trajectory


def derive_columns(trajectory: Trajectory) -> dict[str, Any]:
    """Compute the columns of a draft that are derived from its trajectory."""
    text = trajectory.model_dump_json()
    observations = [turn.observation.image_sha256 for turn in trajectory.turns if turn.observation]
    return {
        "trajectory": text,
        "answer": trajectory.verdict.answer,
        "defect_type": trajectory.verdict.defect_type,
        "boxes": trajectory.verdict.boxes,
        "tools": [call.tool for call in trajectory.calls],
        "observations": [digest for digest in observations if digest],
        "draft_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def read_trajectory(row: Draft) -> Trajectory:
    """Parse the trajectory of a draft."""
    return Trajectory.model_validate_json(row.trajectory)


class ObservationImages:
    """Reads observation images (PNG bytes) by their sha256."""

    def __init__(self, folder: Path) -> None:
        table = OBSERVATION.read(folder / "observation.parquet")
        self._places = {row["sha256"]: (row["shard"], row["row"]) for row in table.iter_rows(named=True)}
        self._reader = ShardReader(folder)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def get(self, digest: str) -> bytes:
        """Return the PNG stored under ``digest``.

        Raises:
            IndusCotError: the image is missing, or its content has another hash.
        """
        if digest not in self._places:
            raise IndusCotError(f"observation image {digest} is missing; run `indus-cot draft` again")
        png = self._reader.get(*self._places[digest])
        if hashlib.sha256(png).hexdigest() != digest:
            raise IndusCotError(f"observation image {digest} was changed on disk; run `indus-cot draft` again")
        return png
