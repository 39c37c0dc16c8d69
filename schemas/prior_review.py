"""PriorReview: one expert's review of one normalcy prior, as Label Studio returned it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.review import ReviewVerdict
from schemas.sample import Name, Sha256
from schemas.table import Table


class PriorReview(BaseModel):
    """One annotation of one prior."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review_id: Name
    """``<project>/<annotation>``, the numbers that Label Studio assigned."""
    prior_id: Name
    text_sha256: Sha256
    """Hash of ``before``."""
    reviewer: Name
    """Account in Label Studio."""
    reviewed_at: Name
    """Last edit, ISO 8601 in UTC."""
    seconds: Annotated[float, Field(ge=0)]
    """Time that the expert spent on the page, as Label Studio counts it (`lead_time`)."""
    verdict: ReviewVerdict
    """``fixed`` if the text was changed, even if the expert ticked accepted. A rejection stays rejected."""
    before: str
    """Machine-made text of the task at the time the review was pulled."""
    after: str
    """Text as the expert left it, in one paragraph."""
    reason: str
    """Reason of a rejection."""
    comment: str
    result: str
    """JSON of the annotation's regions, as Label Studio returned them."""
    problems: list[str]
    """Reasons why the review cannot be applied; empty if it can."""


PRIOR_REVIEW = Table("prior_review", PriorReview, key=("review_id",))
