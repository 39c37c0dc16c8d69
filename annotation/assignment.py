"""Assigns drafts to projects: one project for everybody, or a blind one for each annotator with some shared drafts."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from annotation.gold import plant_mistake
from cot_builder.params import Review
from schemas.trajectory import Draft


class Assignment(NamedTuple):
    """A draft in one project."""

    draft: Draft
    shown: Draft
    """The draft on the page: ``draft`` itself, or a copy with a planted mistake."""
    shared: bool
    """True if every annotator gets this draft."""


def assign_drafts(drafts: Iterable[Draft], params: Review, seed: int) -> dict[str, list[Assignment]]:
    """Return each project's drafts, by project title.

    Without ``annotators`` one project gets all drafts. Otherwise ``overlap_share`` of the samples goes to every
    annotator, and each remaining sample to one annotator. Some of the other annotators get a copy of it with a planted
    mistake: ``gold_share`` of such copies for each true page. Every choice depends only on the sample and the
    annotator, so a new draft does not move other drafts, and a new annotator only takes drafts from the others.
    """
    by_title: dict[str, list[Assignment]] = {title: [] for title in params.titles}
    if not params.annotators:
        by_title[params.project] = [Assignment(draft, draft, shared=False) for draft in drafts]
        return by_title
    planted_share = _compute_planted_share(params)
    for draft in drafts:
        shared = hash_to_unit(f"{seed}/overlap/{draft.sample_id}") < params.overlap_share
        # Highest random weight (Thaler and Ravishankar 1998): each sample ranks the annotators in its own order.
        owner = max(params.annotators, key=lambda name: hash_to_unit(f"{seed}/owner/{name}/{draft.sample_id}"))
        for name, title in zip(params.annotators, params.titles, strict=True):
            if shared or name == owner:
                by_title[title].append(Assignment(draft, draft, shared))
            elif hash_to_unit(f"{seed}/gold/{name}/{draft.sample_id}") < planted_share:
                by_title[title].append(Assignment(draft, plant_mistake(draft, seed), shared=False))
    return by_title


def find_gold_originals(assigned: dict[str, list[Assignment]]) -> dict[str, Draft]:
    """Return the original draft of each page with a planted mistake, by the ``draft_sha256`` of the changed copy."""
    return {
        item.shown.draft_sha256: item.draft
        for items in assigned.values()
        for item in items
        if item.shown is not item.draft
    }


def hash_to_unit(text: str) -> float:
    """Map a text to a number in [0, 1): uniform over texts, always the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


def _compute_planted_share(params: Review) -> float:
    """Return the share of the other annotators' drafts that one annotator gets with a planted mistake."""
    count, overlap = len(params.annotators), params.overlap_share
    own = overlap + (1 - overlap) / count
    others = (1 - overlap) * (1 - 1 / count)
    return min(params.gold_share * own / others, 1.0) if others else 0.0
