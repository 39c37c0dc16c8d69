"""Indus-CoT: one reviewed trajectory with everything a learner or a reader needs, as published."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from schemas.geometry import UnitBox
from schemas.sample import Name, Sha256
from schemas.table import Rule, Table
from schemas.trajectory import ToolName


class Image(BaseModel):
    """An image as `datasets` stores it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: bytes
    path: str | None
    """File name with the suffix of its format; carries no folder and no label."""


class PatchRef(BaseModel):
    """A local patch by its place, found without the truth; its pixels are the crop of the image there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box: UnitBox
    score: float
    """Conspicuousness in grey levels, as in :class:`schemas.patch.PatchPair`."""


class PriorRef(BaseModel):
    """The normalcy prior of the row's category and view, with where it came from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prior_id: str
    text: str
    author: str
    version: str
    image_count: int


class IndusCot(BaseModel):
    """A row of the corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    sample_id: Name
    source_set: Name
    category: Name
    view: Name
    split: Literal["train", "validation"]
    image: Image
    image_sha256: Sha256
    """Of ``image.bytes``: the published file, unchanged."""
    region: tuple[int, int, int, int] | None
    """Half-open pixel box of ``image`` that was inspected; None is all of it."""
    patch_pairs: list[PatchRef]
    prior: PriorRef | None
    messages: str
    """JSON list of chat messages with native tool calls; images are ``{"type": "image"}`` in order of ``images``."""
    images: list[Image]
    """Every image of ``messages`` in order: the inspected image, then the observations."""
    tools: str
    """JSON list of the tools' function schemas."""
    trajectory: str
    """JSON of :class:`schemas.trajectory.Trajectory`, with the sha256 of every observation image."""
    tagged: str
    """The trajectory in the paper's tags."""
    answer: Literal["Yes", "No"]
    boxes: list[UnitBox]
    defect_type: str | None
    tool_calls: list[ToolName]
    gates: list[str]
    """Names of the gates passed."""
    judge_scores: list[float]
    """Empty where no judge read the draft (the offline teacher has none)."""
    judge_disagreement: float | None
    review_status: Literal["auto", "accepted", "fixed"]
    reviewers: Annotated[int, Field(ge=0)]
    teacher: Name
    prompt_version: Name
    toolbox_version: Name
    cost_usd: Annotated[float, Field(ge=0)]
    licence: Name
    """Of the image; what `publish` writes is bound by the texts' as well."""


INDUS_COT = Table(
    "indus_cot",
    IndusCot,
    key=("id",),
    rules=[
        Rule(
            "answer",
            "Yes has boxes and a type, No has neither",
            pl.when(pl.col("answer") == "Yes")
            .then((pl.col("boxes").list.len() > 0) & pl.col("defect_type").is_not_null())
            .otherwise((pl.col("boxes").list.len() == 0) & pl.col("defect_type").is_null()),
        ),
        Rule("images", "the inspected image comes first", pl.col("images").list.len() >= 1),
        Rule(
            "reviewers",
            "auto means that nobody looked",
            (pl.col("review_status") != "auto") | (pl.col("reviewers") == 0),
        ),
    ],
)
