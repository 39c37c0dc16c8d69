"""Read the experts' reviews of priors, and match them with the current texts."""

import hashlib
from collections.abc import Iterable

from cot_builder.corpus.reviews import ensure_empty_table
from cot_builder.storage.workspace import Workspace
from schemas.prior import NormalcyPrior
from schemas.prior_review import PRIOR_REVIEW, PriorReview

STAGE = "prior_review"
EXPERT = "expert"
"""Author of a text that an expert edited; the corpus does not name accounts."""
ReviewKey = tuple[str, str]
"""(prior id, sha256 of the text)."""


def read_prior_reviews(workspace: Workspace) -> list[PriorReview]:
    """Read the reviews pulled so far; empty if there is no table yet."""
    path = workspace.prior_reviews
    return PRIOR_REVIEW.records(PRIOR_REVIEW.read(path)) if path.is_file() else []


def select_latest_reviews(reviews: Iterable[PriorReview]) -> dict[ReviewKey, PriorReview]:
    """Return the latest applicable review of each text by any expert, because all experts share one project."""
    ordered = sorted(reviews, key=lambda row: (row.reviewed_at, row.review_id))
    return {(row.prior_id, row.text_sha256): row for row in ordered if not row.problems}


def review_key(row: NormalcyPrior) -> ReviewKey:
    """Return the key under which a review of this text is stored."""
    return row.prior_id, text_sha256(row.text)


def text_sha256(text: str) -> str:
    """Return the sha256 of a text, which shows whether the text has changed."""
    return hashlib.sha256(text.encode()).hexdigest()


def ensure_prior_table(workspace: Workspace) -> None:
    """Write an empty table if no prior has been reviewed yet; see :func:`ensure_empty_table`."""
    ensure_empty_table(workspace, workspace.prior_reviews, STAGE, PRIOR_REVIEW)
