"""Review: what one expert said of one draft, as it came back from Label Studio."""

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
"""Why an expert rejects a trajectory."""


class Change(BaseModel):
    """One field an expert changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field: Name
    """Path in the trajectory, such as ``turns.0.thought``, ``turns.1.call`` or ``verdict.boxes``."""
    before: str
    """Text as it is, anything else as JSON."""
    after: str


class Review(BaseModel):
    """One annotation of one draft."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review_id: Name
    """``<project>/<annotation>``: numbers of Label Studio."""
    draft_id: Name
    draft_sha256: Sha256
    """The draft that was on the page."""
    role: ReviewRole
    """What the page was for: the draft itself, a hidden check of the expert, or to settle a disagreement."""
    reviewer: Name
    """Account in Label Studio."""
    reviewed_at: Name
    """Last edit, ISO 8601 in UTC."""
    seconds: Annotated[float, Field(ge=0)]
    """Time on the page as Label Studio counts it (`lead_time`)."""
    verdict: ReviewVerdict
    """``fixed`` wherever something was changed, whatever was ticked; a rejection stays one."""
    reasons: list[str]
    """Of a rejection, from :data:`REASONS`."""
    evidence_rating: Annotated[int, Field(ge=1, le=5)] | None
    logic_rating: Annotated[int, Field(ge=1, le=5)] | None
    comment: str
    changes: list[Change]
    """Empty unless something was changed."""
    trajectory: str
    """JSON of the :class:`schemas.trajectory.Trajectory` as the expert left it, edited calls run again."""
    result: str
    """JSON of the annotation's regions as Label Studio returned them: the record, whatever was made of it."""
    caught: bool | None
    """Whether the mistake planted in a ``gold`` page was rejected or put right; None on every other."""
    problems: list[str]
    """Why it cannot be applied: gates the edited trajectory fails, fields that do not parse. Empty if it can."""


REVIEW = Table(
    "review",
    Review,
    key=("review_id",),
    rules=[
        Rule(
            "caught",
            "is given on gold pages that hold a verdict, and on no other",
            (pl.col("role") == "gold") | pl.col("caught").is_null(),
        )
    ],
)
