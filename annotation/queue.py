"""Ranks drafts by how much a review is worth, with the reasons: experts see the highest priority first."""

from typing import NamedTuple

from annotation.assignment import hash_to_unit
from cot_builder.params import Review
from schemas.trajectory import Draft

MAX_JUDGE_DIFFERENCE = 0.2
"""If two readings of the judge differ by more than this, the draft needs a look."""
MIN_JUDGE_SCORE = 0.7
"""If the judge's mean score is below this, the draft needs a look."""


class QueuePosition(NamedTuple):
    """A draft's position in the queue."""

    priority: float
    """0 to 2, the highest first. Above 1 if the draft needs a look."""
    reasons: dict[str, str]
    """Why the draft needs a look: a text by reason. Empty if there is no reason."""
    audit: bool
    """True if the draft was drawn at random; these drafts estimate the quality of those that nobody reviews."""


def rank_draft(draft: Draft, params: Review, seed: int) -> QueuePosition:
    """Return the position of ``draft``. It depends only on the draft, so a new draft does not move other drafts.

    The random audit draws its share from all drafts, with or without a reason to look. Drafts drawn without a reason
    are ranked among those with one, so an expert who stops early has seen some of both.
    """
    reasons: dict[str, str] = {}
    worth = 0.0
    if draft.blind_answer and draft.blind_answer != draft.answer:
        reasons["blind mistake"] = f"without the truth the teacher answered {draft.blind_answer}"
        worth += 0.4
    if draft.judge_disagreement is not None and draft.judge_disagreement > MAX_JUDGE_DIFFERENCE:
        reasons["judge disagreement"] = f"two readings of the judge differ by {draft.judge_disagreement:.2f}"
        worth += draft.judge_disagreement
    score = sum(draft.judge_scores) / len(draft.judge_scores) if draft.judge_scores else None
    if score is not None and score < MIN_JUDGE_SCORE:
        reasons["low score"] = f"the judge gave {score:.2f}"
        worth += 1 - score
    if draft.corrections:
        reasons["corrected"] = f"{' and '.join(draft.sent_back_by)} sent it back {draft.corrections} times"
        worth += 0.2 * draft.corrections
    drawn = hash_to_unit(f"{seed}/{draft.sample_id}")
    audit = drawn < params.audit_share
    if reasons:
        return QueuePosition(round(1 + min(worth, 1.0), 4), reasons, audit)
    # Spread audited drafts evenly over priorities 1 to 2: `drawn` is uniform below the share.
    return QueuePosition(round(1 + drawn / params.audit_share if audit else drawn, 4), reasons, audit)
