"""Pages with a planted mistake, hidden among the others: they tell whether an expert still reads.

The benchmark's truth passed the gates, so what is wrong with such a page is known. It measures attention, not skill:
the steps above a planted verdict still say what was there.
"""

import hashlib
import random

from cot_builder.corpus.drafts import derive_columns, read_trajectory
from schemas.geometry import SCALE, Box, intersection, union_iou
from schemas.review import ReviewVerdict
from schemas.taxonomy import family, leaves
from schemas.trajectory import Draft, Verdict

PUT_RIGHT = 0.5
"""IoU of the regions from which a box counts as put right."""
SIDES = (60, 200)
"""Sides of an invented box, in 0-1000."""


def plant(draft: Draft, seed: int) -> Draft:
    """``draft`` with one mistake in its verdict: the answer, the type, or the place of its boxes.

    Depends on the draft and the seed alone.
    """
    dice = random.Random(hashlib.sha256(f"{seed}/plant/{draft.draft_sha256}".encode()).digest())
    trajectory = read_trajectory(draft)
    right = trajectory.verdict
    if right.answer == "No":
        wrong = Verdict(answer="Yes", boxes=[_invented(dice)], defect_type=dice.choice(leaves()))
    else:
        assert right.defect_type is not None
        others = [leaf for leaf in leaves() if family(leaf) != family(right.defect_type)]
        tried = [_invented(dice) for _ in range(64)]
        away = [box for box in tried if all(intersection(box, other) is None for other in right.boxes)]
        mistakes = [Verdict(answer="No"), right.model_copy(update={"defect_type": dice.choice(others)})]
        mistakes += [right.model_copy(update={"boxes": away[:1]})] if away else []
        wrong = dice.choice(mistakes)
    return draft.model_copy(update=derive_columns(trajectory.model_copy(update={"verdict": wrong})))


def caught(said: ReviewVerdict, after: Verdict, right: Verdict) -> bool:
    """Whether the expert rejected a planted mistake or put it right."""
    same = (after.answer, after.defect_type) == (right.answer, right.defect_type)
    return said == "rejected" or (same and union_iou(after.boxes, right.boxes) >= PUT_RIGHT)


def _invented(dice: random.Random) -> Box:
    width, height = dice.randint(*SIDES), dice.randint(*SIDES)
    left, top = dice.randint(0, SCALE - width), dice.randint(0, SCALE - height)
    return left, top, left + width, top + height
