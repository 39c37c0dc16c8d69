"""Gold pages: pages with a planted mistake, hidden among the others, that show whether an expert still pays attention.

The original drafts passed the gates, so the planted mistake is the only known error of such a page. It measures
attention, not skill: the steps above the planted verdict still describe the true finding.
"""

import hashlib
import random

from cot_builder.corpus.drafts import derive_columns, read_trajectory
from schemas.geometry import SCALE, Box, intersection, union_iou
from schemas.review import ReviewVerdict
from schemas.taxonomy import family, leaves
from schemas.trajectory import Draft, Verdict

MIN_FIX_IOU = 0.5
"""A planted box counts as corrected if the IoU of the regions is at least this."""
BOX_SIDES = (60, 200)
"""Shortest and longest side of an invented box, in 0-1000."""


def plant_mistake(draft: Draft, seed: int) -> Draft:
    """Return ``draft`` with one mistake in its verdict: in the answer, the type, or the place of its boxes.

    The result depends only on the draft and the seed.
    """
    generator = random.Random(hashlib.sha256(f"{seed}/plant/{draft.draft_sha256}".encode()).digest())
    trajectory = read_trajectory(draft)
    right = trajectory.verdict
    if right.answer == "No":
        wrong = Verdict(answer="Yes", boxes=[_draw_box(generator)], defect_type=generator.choice(leaves()))
    else:
        assert right.defect_type is not None
        other_types = [leaf for leaf in leaves() if family(leaf) != family(right.defect_type)]
        candidates = [_draw_box(generator) for _ in range(64)]
        disjoint = [box for box in candidates if all(intersection(box, other) is None for other in right.boxes)]
        mistakes = [Verdict(answer="No"), right.model_copy(update={"defect_type": generator.choice(other_types)})]
        mistakes += [right.model_copy(update={"boxes": disjoint[:1]})] if disjoint else []
        wrong = generator.choice(mistakes)
    return draft.model_copy(update=derive_columns(trajectory.model_copy(update={"verdict": wrong})))


def is_caught(decision: ReviewVerdict, after: Verdict, right: Verdict) -> bool:
    """Return whether the expert rejected a page with a planted mistake, or corrected the mistake.

    Args:
        decision: The expert's decision.
        after: The verdict as the expert left it.
        right: The verdict of the original draft.
    """
    same = (after.answer, after.defect_type) == (right.answer, right.defect_type)
    return decision == "rejected" or (same and union_iou(after.boxes, right.boxes) >= MIN_FIX_IOU)


def _draw_box(generator: random.Random) -> Box:
    width, height = generator.randint(*BOX_SIDES), generator.randint(*BOX_SIDES)
    left, top = generator.randint(0, SCALE - width), generator.randint(0, SCALE - height)
    return left, top, left + width, top + height
