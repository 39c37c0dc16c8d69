"""PriorReview: what one expert said of one normalcy prior, as it came back from Label Studio."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from schemas.review import ReviewVerdict
from schemas.sample import Name, Sha256
from schemas.table import Table


class PriorReview(BaseModel):
    """One annotation of one prior."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    review_id: Name
    """``<project>/<annotation>``: numbers of Label Studio."""
    prior_id: Name
    text_sha256: Sha256
    """Of ``before``."""
    reviewer: Name
    """Account in Label Studio."""
    reviewed_at: Name
    """Last edit, ISO 8601 in UTC."""
    seconds: Annotated[float, Field(ge=0)]
    """Time on the page as Label Studio counts it (`lead_time`)."""
    verdict: ReviewVerdict
    """``fixed`` wherever the text was changed, whatever was ticked; a rejection stays one."""
    before: str
    """The text of the task when the review came back, made by the machine."""
    after: str
    """As the expert left it, in one paragraph."""
    reason: str
    """Of a rejection."""
    comment: str
    result: str
    """JSON of the annotation's regions as Label Studio returned them."""
    problems: list[str]
    """Why it cannot be applied. Empty if it can."""


PRIOR_REVIEW = Table("prior_review", PriorReview, key=("review_id",))
