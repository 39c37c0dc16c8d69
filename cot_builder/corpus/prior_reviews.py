"""The experts' reviews of priors, and what they mean for a text that is there now."""

import hashlib
from collections.abc import Iterable

from cot_builder.corpus.reviews import ensure_empty_table
from cot_builder.storage.workspace import Workspace
from schemas.prior import NormalcyPrior
from schemas.prior_review import PRIOR_REVIEW, PriorReview

STAGE = "prior_review"
EXPERT = "expert"
"""Author of a text that an expert edited: the corpus names no account."""
ReviewKey = tuple[str, str]
"""A prior and the sha256 of its text."""


def read_prior_reviews(workspace: Workspace) -> list[PriorReview]:
    """The reviews pulled so far; none where there is no table yet."""
    path = workspace.prior_reviews
    return PRIOR_REVIEW.records(PRIOR_REVIEW.read(path)) if path.is_file() else []


def select_latest_reviews(reviews: Iterable[PriorReview]) -> dict[ReviewKey, PriorReview]:
    """The latest applicable review of each text, whoever wrote it: one project shows a prior to all."""
    ordered = sorted(reviews, key=lambda row: (row.reviewed_at, row.review_id))
    return {(row.prior_id, row.text_sha256): row for row in ordered if not row.problems}


def review_key(row: NormalcyPrior) -> ReviewKey:
    """What a review of this text is found by."""
    return row.prior_id, text_sha256(row.text)


def text_sha256(text: str) -> str:
    """sha256 of a text, by which a changed one is told."""
    return hashlib.sha256(text.encode()).hexdigest()


def ensure_prior_table(workspace: Workspace) -> None:
    """Make the empty table where nobody has reviewed a prior yet, as :func:`ensure_empty_table` says."""
    ensure_empty_table(workspace, workspace.prior_reviews, STAGE, PRIOR_REVIEW)
