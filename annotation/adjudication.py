"""Finds drafts that experts disagree on, and describes the reviews to the adjudicator."""

from collections.abc import Sequence

from cot_builder.corpus.reviews import select_latest_reviews
from schemas.geometry import union_iou
from schemas.review import Review
from schemas.trajectory import Trajectory, Verdict

MIN_REGION_IOU = 0.5
"""Two experts mark the same place if the IoU of their regions is at least this."""
VERDICT_PHRASES = {"accepted": "accepts it", "fixed": "fixed it", "rejected": "rejects it"}


def find_disagreements(reviews: Sequence[Review]) -> dict[str, list[Review]]:
    """Return the reviews of each draft that experts disagree on and nobody has adjudicated, by ``draft_sha256``.

    Experts disagree if one rejects a draft that another accepts or fixes, or if their final verdicts differ in answer,
    type or place. Different wording is no disagreement.
    """
    settled = select_latest_reviews(reviews, "adjudication")
    by_draft = select_latest_reviews(reviews, "review")
    return {digest: rows for digest, rows in by_draft.items() if digest not in settled and _verdicts_differ(rows)}


def describe_reviews(reviews: Sequence[Review]) -> list[str]:
    """Return one line for each expert's review, without names: the adjudicator judges the draft, not the people."""
    # Sort by content, so that the order does not reveal who wrote which review.
    ordered = sorted(reviews, key=lambda row: (row.verdict, row.trajectory, row.comment))
    return [f"expert {number} {_describe_review(row)}" for number, row in enumerate(ordered, 1)]


def parse_verdict(review: Review) -> Verdict:
    """Return the verdict of the trajectory as the expert left it."""
    return Trajectory.model_validate_json(review.trajectory).verdict


def _verdicts_differ(reviews: Sequence[Review]) -> bool:
    if len({row.verdict == "rejected" for row in reviews}) > 1:
        return True
    if reviews[0].verdict == "rejected":
        return False
    first, *others = [parse_verdict(row) for row in reviews]
    return any(
        (other.answer, other.defect_type) != (first.answer, first.defect_type)
        or union_iou(first.boxes, other.boxes) < MIN_REGION_IOU
        for other in others
    )


def _describe_review(row: Review) -> str:
    changes = [f"{change.field} {change.before} → {change.after}" for change in row.changes]
    details = "; ".join([*row.reasons, *changes, *([f"“{row.comment}”"] if row.comment else [])])
    return VERDICT_PHRASES[row.verdict] + (f": {details}" if details else "")
