"""Who reviews what: one project for all, or a blind one for each expert with some drafts in common."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from annotation.gold import plant
from cot_builder.params import Review
from schemas.trajectory import Draft


class Assigned(NamedTuple):
    """A draft in somebody's project."""

    draft: Draft
    shown: Draft
    """What the page holds: the draft itself, or the same with a planted mistake."""
    shared: bool
    """Every annotator has it."""


def assign(drafts: Iterable[Draft], params: Review, seed: int) -> dict[str, list[Assigned]]:
    """Each project's drafts, by its title.

    Without ``annotators`` one project has all of them. Otherwise ``overlap_share`` of the samples goes to everyone,
    and each other one to one annotator, of whose sample some of the rest see a copy with a planted mistake:
    ``gold_share`` for each true page. Every choice depends on the sample and the annotator alone, so that a new
    draft moves no other, and a new annotator only takes.
    """
    found: dict[str, list[Assigned]] = {title: [] for title in params.titles}
    if not params.annotators:
        found[params.project] = [Assigned(draft, draft, shared=False) for draft in drafts]
        return found
    planted = _planted_share(params)
    for draft in drafts:
        shared = chance(f"{seed}/overlap/{draft.sample_id}") < params.overlap_share
        # Highest random weight (Thaler and Ravishankar 1998): each sample has an order of annotators of its own.
        owner = max(params.annotators, key=lambda name: chance(f"{seed}/owner/{name}/{draft.sample_id}"))
        for name, title in zip(params.annotators, params.titles, strict=True):
            if shared or name == owner:
                found[title].append(Assigned(draft, draft, shared))
            elif chance(f"{seed}/gold/{name}/{draft.sample_id}") < planted:
                found[title].append(Assigned(draft, plant(draft, seed), shared=False))
    return found


def golds(assigned: dict[str, list[Assigned]]) -> dict[str, Draft]:
    """The drafts that planted mistakes were made of, by the ``draft_sha256`` of what was made."""
    return {
        item.shown.draft_sha256: item.draft
        for items in assigned.values()
        for item in items
        if item.shown is not item.draft
    }


def chance(text: str) -> float:
    """Uniform in [0, 1), the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]) / 2**56


def _planted_share(params: Review) -> float:
    """Share of other people's drafts that one annotator gets with a mistake."""
    count, overlap = len(params.annotators), params.overlap_share
    own = overlap + (1 - overlap) / count
    others = (1 - overlap) * (1 - 1 / count)
    return min(params.gold_share * own / others, 1.0) if others else 0.0
