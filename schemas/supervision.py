"""Supervision: the ground truth of a sample, in its own table and type.

Selection, the private side of the teacher, gates, rewards and metrics may import this module. Code that builds the
input of a student must not import it; `make test` checks the imports.
"""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from schemas.geometry import UnitBox
from schemas.sample import Name
from schemas.table import Rule, Table


class Supervision(BaseModel):
    """Ground truth of one sample according to its benchmark."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sample_id: Name
    source_path: Annotated[str, Field(min_length=1)]
    """Path of the image inside the benchmark, as published."""
    label: Literal["normal", "anomalous"]
    raw_type: str | None
    """Defect label of the benchmark; None for normal samples."""
    defect_type: str | None
    """Leaf of the taxonomy; None for normal samples."""
    boxes: list[UnitBox]
    """One box per connected region of the mask, largest first; empty if no mask is published."""
    area_fraction: Annotated[float, Field(ge=0, le=1)] | None
    """Share of the image that the mask covers; None if no mask is published."""
    mask_shard: str | None
    mask_row: Annotated[int, Field(ge=0)] | None


def _normal_has_no_defect() -> pl.Expr:
    normal = pl.col("label") == "normal"
    clean = pl.col("defect_type").is_null() & (pl.col("boxes").list.len() == 0)
    return ~normal | clean


SUPERVISION = Table(
    "supervision",
    Supervision,
    key=("sample_id",),
    rules=[
        Rule("label", "a normal sample has no defect type and no box", _normal_has_no_defect()),
        Rule(
            "defect_type",
            "an anomalous sample has a defect type",
            (pl.col("label") == "normal") | pl.col("defect_type").is_not_null(),
        ),
    ],
)
