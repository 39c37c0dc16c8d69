"""What review is worth: which drafts an expert should see first, and why."""

from typing import NamedTuple

from annotation.assignment import chance
from cot_builder.params import Review
from schemas.trajectory import Draft

DISAGREEMENT = 0.2
"""Readings of the judge that differ by more than this are a reason to look."""
LOW_SCORE = 0.7
"""A mean score of the judge below this is one too."""


class Place(NamedTuple):
    """A draft's place in the queue."""

    priority: float
    """0 to 2; the highest comes first. Above 1: there is a reason to look."""
    why: dict[str, str]
    """Reasons by name, in words; empty where there is none."""
    audit: bool
    """Drawn at random, so that what nobody looks at can be judged by it."""


def place(draft: Draft, params: Review, seed: int) -> Place:
    """The place of ``draft``; depends on the draft alone, so that a new draft moves no other.

    The random audit takes its share of all drafts, whether or not there is a reason to look, and stands among
    those with a reason: whoever stops early has seen some of both.
    """
    why: dict[str, str] = {}
    worth = 0.0
    if draft.blind_answer and draft.blind_answer != draft.answer:
        why["blind mistake"] = f"without the truth the teacher answered {draft.blind_answer}"
        worth += 0.4
    if draft.judge_disagreement is not None and draft.judge_disagreement > DISAGREEMENT:
        why["judge disagreement"] = f"two readings of the judge differ by {draft.judge_disagreement:.2f}"
        worth += draft.judge_disagreement
    score = sum(draft.judge_scores) / len(draft.judge_scores) if draft.judge_scores else None
    if score is not None and score < LOW_SCORE:
        why["low score"] = f"the judge gave {score:.2f}"
        worth += 1 - score
    if draft.corrections:
        why["corrected"] = f"{' and '.join(draft.sent_back_by)} sent it back {draft.corrections} times"
        worth += 0.2 * draft.corrections
    drawn = chance(f"{seed}/{draft.sample_id}")
    audit = drawn < params.audit_share
    if why:
        return Place(round(1 + min(worth, 1.0), 4), why, audit)
    # Spread over all who have a reason: the share alone says how many there are.
    return Place(round(1 + drawn / params.audit_share if audit else drawn, 4), why, audit)
