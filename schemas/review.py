"""Review: one expert's review of one draft, as Label Studio returned it."""

from typing import Annotated, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from schemas.sample import Name, Sha256
from schemas.table import Rule, Table

ReviewVerdict = Literal["accepted", "fixed", "rejected"]
ReviewRole = Literal["review", "gold", "adjudication"]
REASONS = (
    "ungrounded statement",
    "wrong location",
    "wrong type",
    "wrong answer",
    "needless or wrong tool call",
    "poor reasoning",
    "unusable image",
)
"""Reasons for rejecting a trajectory that the page offers."""


class Change(BaseModel):
    """One field that an expert changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Name
    """Path in the trajectory, such as ``turns.0.thought``, ``turns.1.call`` or ``verdict.boxes``."""
    before: str
    """A text as it is, any other value as JSON."""
    after: str


class Review(BaseModel):
    """One annotation of one draft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review_id: Name
    """``<project>/<annotation>``, the numbers that Label Studio assigned."""
    draft_id: Name
    draft_sha256: Sha256
    """Hash of the draft that was on the page."""
    role: ReviewRole
    """Purpose of the page. review: of the draft. gold: a hidden check of the expert. adjudication: settles a
    disagreement."""
    reviewer: Name
    """Account in Label Studio."""
    reviewed_at: Name
    """Last edit, ISO 8601 in UTC."""
    seconds: Annotated[float, Field(ge=0)]
    """Time that the expert spent on the page, as Label Studio counts it (`lead_time`)."""
    verdict: ReviewVerdict
    """``fixed`` if a field was changed, even if the expert ticked accepted. A rejection stays rejected."""
    reasons: list[str]
    """Reasons of a rejection, from :data:`REASONS`."""
    evidence_rating: Annotated[int, Field(ge=1, le=5)] | None
    logic_rating: Annotated[int, Field(ge=1, le=5)] | None
    comment: str
    changes: list[Change]
    """Fields that the expert changed."""
    trajectory: str
    """JSON of the :class:`schemas.trajectory.Trajectory` as the expert left it. Edited calls have been run again."""
    result: str
    """JSON of the annotation's regions, unchanged, as Label Studio returned them."""
    caught: bool | None
    """Whether the expert rejected or corrected the mistake planted in a ``gold`` page; None for other pages."""
    problems: list[str]
    """Reasons why the review cannot be applied: failed gates or fields that do not parse. Empty if it can."""


REVIEW = Table(
    "review",
    Review,
    key=("review_id",),
    rules=[
        Rule(
            "caught",
            "caught is null unless the role is gold",
            (pl.col("role") == "gold") | pl.col("caught").is_null(),
        )
    ],
)
