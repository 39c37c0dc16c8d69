"""Computes progress and results of the review from the reviews pulled so far, without the server."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple

from annotation.adjudication import find_disagreements
from annotation.assignment import Assignment, assign_drafts
from annotation.queue import rank_draft
from cot_builder.corpus.reviews import AcceptedShare, Decision, decide_drafts, read_reviews
from cot_builder.params import Params
from cot_builder.storage.workspace import Workspace
from schemas.review import Review
from schemas.trajectory import DRAFT, Draft

AUDIT_GROUP = "drawn at random"
RATE_PERIOD = timedelta(days=7)
"""Period over which the rate of pages per day is computed."""


class ReviewStatus(NamedTuple):
    """Progress and results of the review."""

    drafts: int
    decided: int
    """Drafts with a decision on their current version."""
    pages: int
    """Pages of all annotators: a shared draft has one page for each."""
    pages_done: int
    sent_back: int
    """Drafts whose review was sent back to the expert and that have no decision since."""
    stale: int
    """Reviews whose draft has changed since."""
    disagreements: int
    """Drafts that wait for adjudication."""
    seconds: float
    """Median time spent on a page; 0 without reviews."""
    hours_left: float
    """Hours that all experts together need for the remaining pages at that pace."""
    pages_per_day: float
    """Pages done per day in the last seven days; 0 if there were none."""
    finished: datetime | None
    """When the remaining pages will be done at that rate; None if the rate is 0."""
    reviewers: dict[str, int]
    """Number of reviews by expert."""
    shares: list[AcceptedShare]
    """Accepted shares: of all drafts, of the random audit, by teacher and prompt version, reason to look, and gate."""
    problems: dict[str, int]
    """Number of reviews that were sent back, by gate or cause."""
    usd_per_accepted: float | None
    """Drafting cost of the decided drafts divided by the number accepted or fixed; None if there are none."""
    seconds_per_accepted: float | None
    """Reviewing time of all experts divided by the same number, in seconds."""


def compute_status(params: Params, workspace: Workspace, now: datetime) -> ReviewStatus:
    """Compare the reviews pulled so far with the current drafts.

    Raises:
        IndusCotError: there are no drafts.
    """
    drafts: list[Draft] = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
    current = {draft.draft_sha256 for draft in drafts}
    reviews = read_reviews(workspace)
    assigned = assign_drafts(drafts, params.review, params.run.seed)
    decided = {digest: item for digest, item in decide_drafts(reviews).items() if digest in current}
    sent_back = {row.draft_sha256 for row in reviews if row.problems} & current - decided.keys()
    positions = {draft.draft_sha256: rank_draft(draft, params.review, params.run.seed) for draft in drafts}
    groups: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        groups[f"{draft.teacher}, prompts {draft.prompt_version}"].append(draft)
        for name in positions[draft.draft_sha256].reasons:
            groups[name].append(draft)
        for gate in draft.sent_back_by:
            groups[f"sent back by {gate}"].append(draft)
    shares = [
        _compute_share("all", drafts, decided),
        _compute_share(AUDIT_GROUP, (draft for draft in drafts if positions[draft.draft_sha256].audit), decided),
        *(_compute_share(name, members, decided) for name, members in sorted(groups.items())),
    ]
    seconds = median([row.seconds for row in reviews] or [0.0])
    accepted = shares[0].accepted + shares[0].fixed
    usd = sum(draft.cost_usd for draft in drafts if draft.draft_sha256 in decided)
    pages, done = _count_pages(assigned, params.review.annotators, reviews, decided.keys())
    pages_per_day = _compute_pages_per_day(reviews, now)
    return ReviewStatus(
        drafts=len(drafts),
        decided=len(decided),
        pages=pages,
        pages_done=done,
        sent_back=len(sent_back),
        stale=sum(row.role != "gold" and row.draft_sha256 not in current for row in reviews),
        disagreements=len(find_disagreements(reviews).keys() & current),
        seconds=seconds,
        hours_left=seconds * (pages - done) / 3600,
        pages_per_day=pages_per_day,
        finished=now + timedelta(days=(pages - done) / pages_per_day) if pages_per_day else None,
        reviewers=dict(Counter(row.reviewer for row in reviews).most_common()),
        shares=[share for share in shares if share.reviewed],
        problems=dict(Counter(text.partition(":")[0] for row in reviews for text in row.problems).most_common()),
        usd_per_accepted=usd / accepted if accepted else None,
        seconds_per_accepted=sum(row.seconds for row in reviews) / accepted if accepted else None,
    )


def _compute_share(name: str, drafts: Iterable[Draft], decided: dict[str, Decision]) -> AcceptedShare:
    counts = Counter(decided[draft.draft_sha256].status for draft in drafts if draft.draft_sha256 in decided)
    return AcceptedShare(name, counts["accepted"], counts["fixed"], counts.total())


def _count_pages(
    assigned: dict[str, list[Assignment]], annotators: Sequence[str], reviews: Sequence[Review], decided: Iterable[str]
) -> tuple[int, int]:
    """Return the number of pages, and how many of them are done."""
    decided_drafts = set(decided)
    reviewed = {(row.draft_sha256, row.reviewer.lower()) for row in reviews if not row.problems}
    total = done = 0
    for name, items in zip(annotators or [""], assigned.values(), strict=True):
        for item in items:
            total += 1
            is_reviewed = (item.shown.draft_sha256, name.lower()) in reviewed
            # A draft that is not shared needs one review, from any expert.
            done += is_reviewed or (not item.shared and item.shown.draft_sha256 in decided_drafts)
    return total, done


def _compute_pages_per_day(reviews: Sequence[Review], now: datetime) -> float:
    times = [datetime.fromisoformat(row.reviewed_at) for row in reviews]
    recent = [time for time in times if time > now - RATE_PERIOD]
    if not recent:
        return 0.0
    # Divide by the days since the first review, at most the whole period and at least one day.
    days = min(max((now - min(times)) / timedelta(days=1), 1.0), RATE_PERIOD / timedelta(days=1))
    return len(recent) / days


def get_audit_share(params: Params, workspace: Workspace) -> AcceptedShare | None:
    """Return the accepted share of the drafts drawn at random; None if none of them is reviewed."""
    if not (read_reviews(workspace) and (workspace.draft / "trajectory.parquet").is_file()):
        return None
    shares = {share.name: share for share in compute_status(params, workspace, datetime.now(UTC)).shares}
    return shares.get(AUDIT_GROUP)
