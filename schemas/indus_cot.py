"""Rows of the published corpus: one reviewed trajectory with everything needed to train on it or read it."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from schemas.geometry import UnitBox
from schemas.sample import Name, Sha256
from schemas.table import Rule, Table
from schemas.trajectory import ToolName


class Image(BaseModel):
    """An image in the form in which `datasets` stores it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: bytes
    path: str | None
    """File name with the suffix of its format. It contains neither a folder nor the label."""


class PatchRef(BaseModel):
    """Box of a local patch, found without ground truth. Its pixels are the crop of the image in this box."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    box: UnitBox
    score: float
    """Conspicuousness in grey levels, as in :class:`schemas.patch.PatchPair`."""


class PriorRef(BaseModel):
    """The normalcy prior for the category and view of the row, with its origin."""

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
    """Hash of ``image.bytes``, which are those of the published file."""
    region: tuple[int, int, int, int] | None
    """Inspected part of ``image`` as a half-open pixel box; None for the whole image."""
    patch_pairs: list[PatchRef]
    prior: PriorRef | None
    messages: str
    """JSON list of chat messages with native tool calls. Each ``{"type": "image"}`` is the next entry of ``images``."""
    images: list[Image]
    """All images of ``messages`` in order: the inspected image, then the observations."""
    tools: str
    """JSON list of the function schemas of the tools."""
    trajectory: str
    """JSON of :class:`schemas.trajectory.Trajectory`, with the sha256 of every observation image."""
    tagged: str
    """The trajectory as text in the tags of the paper."""
    answer: Literal["Yes", "No"]
    boxes: list[UnitBox]
    defect_type: str | None
    tool_calls: list[ToolName]
    gates: list[str]
    """Names of the gates that the trajectory passed."""
    judge_scores: list[float]
    """Empty if no judge read the draft (the offline teacher has no judge)."""
    judge_disagreement: float | None
    review_status: Literal["auto", "accepted", "fixed"]
    reviewers: Annotated[int, Field(ge=0)]
    teacher: Name
    prompt_version: Name
    toolbox_version: Name
    cost_usd: Annotated[float, Field(ge=0)]
    licence: Name
    """Licence of the image. The output of `publish` is also bound by the licence of the texts."""


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
            "the review status auto requires 0 reviewers",
            (pl.col("review_status") != "auto") | (pl.col("reviewers") == 0),
        ),
    ],
)
