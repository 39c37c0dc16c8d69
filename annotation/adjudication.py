"""Drafts that experts disagree on: which they are, and what the one who settles it is told."""

from collections.abc import Sequence

from cot_builder.corpus.reviews import select_latest_reviews
from schemas.geometry import union_iou
from schemas.review import Review
from schemas.trajectory import Trajectory, Verdict

SAME_PLACE = 0.5
"""IoU of the regions from which two experts mean the same place."""
SAYS = {"accepted": "accepts it", "fixed": "fixed it", "rejected": "rejects it"}


def disagreements(reviews: Sequence[Review]) -> dict[str, list[Review]]:
    """What was said of the drafts that experts disagree on and that nobody has settled, by ``draft_sha256``.

    They disagree where one rejects what another takes, or where the verdicts they leave differ in answer, type or
    place. Two wordings of one verdict are no disagreement.
    """
    settled = select_latest_reviews(reviews, "adjudication")
    said = select_latest_reviews(reviews, "review")
    return {digest: words for digest, words in said.items() if digest not in settled and _differ(words)}


def told(words: Sequence[Review]) -> list[str]:
    """What each expert said, without names: who settles it judges the draft, not the people."""
    # By what they said, so that no order of people shows through.
    ordered = sorted(words, key=lambda row: (row.verdict, row.trajectory, row.comment))
    return [f"expert {number} {_said(row)}" for number, row in enumerate(ordered, 1)]


def verdict(review: Review) -> Verdict:
    """The verdict a review leaves."""
    return Trajectory.model_validate_json(review.trajectory).verdict


def _differ(words: Sequence[Review]) -> bool:
    if len({row.verdict == "rejected" for row in words}) > 1:
        return True
    if words[0].verdict == "rejected":
        return False
    first, *others = [verdict(row) for row in words]
    return any(
        (other.answer, other.defect_type) != (first.answer, first.defect_type)
        or union_iou(first.boxes, other.boxes) < SAME_PLACE
        for other in others
    )


def _said(row: Review) -> str:
    parts = [f"{change.field} {change.before} → {change.after}" for change in row.changes]
    why = "; ".join([*row.reasons, *parts, *([f"“{row.comment}”"] if row.comment else [])])
    return SAYS[row.verdict] + (f": {why}" if why else "")
