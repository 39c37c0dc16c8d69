"""How far the review is, and what it says of the drafts: from the reviews pulled so far, without the server."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import NamedTuple

from annotation.adjudication import disagreements
from annotation.assignment import Assigned, assign
from annotation.queue import place
from cot_builder.corpus.reviews import AcceptedShare, Decision, decide_drafts, read_reviews
from cot_builder.params import Params
from cot_builder.storage.workspace import Workspace
from schemas.review import Review
from schemas.trajectory import DRAFT, Draft

AUDIT = "drawn at random"
RECENT = timedelta(days=7)
"""What the rate is taken from."""


class Status(NamedTuple):
    """Figures of the review."""

    drafts: int
    decided: int
    """Drafts as they are now that somebody has decided on."""
    pages: int
    """Pages of all annotators: a shared draft has one for each."""
    pages_done: int
    sent_back: int
    """Drafts whose review went back, and that nobody has decided on since."""
    stale: int
    """Reviews of drafts that have changed since."""
    disagreements: int
    """Drafts that wait for adjudication."""
    seconds: float
    """Median time on a page; 0 where nothing is reviewed."""
    hours_left: float
    """At that pace, for the pages that are left, all experts together."""
    a_day: float
    """Pages done a day, in the seven days up to now; 0 where none was."""
    finished: datetime | None
    """When the pages that are left are done at that rate; None without a rate."""
    reviewers: dict[str, int]
    """Reviews by person."""
    shares: list[AcceptedShare]
    """Of all, of the random audit, by teacher and version of the prompts, by reason to look, by gate."""
    problems: dict[str, int]
    """Reviews that went back, by gate or cause."""
    usd_an_accepted: float | None
    """What drafting did cost for each draft taken, at the share taken so far; None where none is."""
    seconds_an_accepted: float | None
    """What reviewing did, likewise, in seconds of all experts together."""


def status(params: Params, workspace: Workspace, now: datetime) -> Status:
    """Hold the reviews pulled so far against the drafts of today.

    Raises:
        IndusCotError: there are no drafts.
    """
    drafts: list[Draft] = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
    current = {draft.draft_sha256 for draft in drafts}
    reviews = read_reviews(workspace)
    assigned = assign(drafts, params.review, params.run.seed)
    decided = {digest: item for digest, item in decide_drafts(reviews).items() if digest in current}
    sent_back = {row.draft_sha256 for row in reviews if row.problems} & current - decided.keys()
    places = {draft.draft_sha256: place(draft, params.review, params.run.seed) for draft in drafts}
    groups: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        groups[f"{draft.teacher}, prompts {draft.prompt_version}"].append(draft)
        for name in places[draft.draft_sha256].why:
            groups[name].append(draft)
        for gate in draft.sent_back_by:
            groups[f"sent back by {gate}"].append(draft)
    shares = [
        _share("all", drafts, decided),
        _share(AUDIT, (draft for draft in drafts if places[draft.draft_sha256].audit), decided),
        *(_share(name, members, decided) for name, members in sorted(groups.items())),
    ]
    seconds = median([row.seconds for row in reviews] or [0.0])
    taken = shares[0].accepted + shares[0].fixed
    usd = sum(draft.cost_usd for draft in drafts if draft.draft_sha256 in decided)
    pages, done = _pages(assigned, params.review.annotators, reviews, decided.keys())
    a_day = _a_day(reviews, now)
    return Status(
        drafts=len(drafts),
        decided=len(decided),
        pages=pages,
        pages_done=done,
        sent_back=len(sent_back),
        stale=sum(row.role != "gold" and row.draft_sha256 not in current for row in reviews),
        disagreements=len(disagreements(reviews).keys() & current),
        seconds=seconds,
        hours_left=seconds * (pages - done) / 3600,
        a_day=a_day,
        finished=now + timedelta(days=(pages - done) / a_day) if a_day else None,
        reviewers=dict(Counter(row.reviewer for row in reviews).most_common()),
        shares=[share for share in shares if share.reviewed],
        problems=dict(Counter(text.partition(":")[0] for row in reviews for text in row.problems).most_common()),
        usd_an_accepted=usd / taken if taken else None,
        seconds_an_accepted=sum(row.seconds for row in reviews) / taken if taken else None,
    )


def _share(name: str, drafts: Iterable[Draft], decided: dict[str, Decision]) -> AcceptedShare:
    found = Counter(decided[draft.draft_sha256].status for draft in drafts if draft.draft_sha256 in decided)
    return AcceptedShare(name, found["accepted"], found["fixed"], found.total())


def _pages(
    assigned: dict[str, list[Assigned]], annotators: Sequence[str], reviews: Sequence[Review], decided: Iterable[str]
) -> tuple[int, int]:
    """Pages there are, and pages done."""
    settled = set(decided)
    said = {(row.draft_sha256, row.reviewer.lower()) for row in reviews if not row.problems}
    total = done = 0
    for name, items in zip(annotators or [""], assigned.values(), strict=True):
        for item in items:
            total += 1
            mine = (item.shown.draft_sha256, name.lower()) in said
            # A draft that only one person need look at is done whoever did.
            done += mine or (not item.shared and item.shown.draft_sha256 in settled)
    return total, done


def _a_day(reviews: Sequence[Review], now: datetime) -> float:
    times = [datetime.fromisoformat(row.reviewed_at) for row in reviews]
    recent = [time for time in times if time > now - RECENT]
    if not recent:
        return 0.0
    # A review that began yesterday has no week behind it; one that began just now has no rate of a day yet.
    days = min(max((now - min(times)) / timedelta(days=1), 1.0), RECENT / timedelta(days=1))
    return len(recent) / days


def audit_share(params: Params, workspace: Workspace) -> AcceptedShare | None:
    """The share of the drafts drawn at random that experts took; None where nobody has reviewed any."""
    if not (read_reviews(workspace) and (workspace.draft / "trajectory.parquet").is_file()):
        return None
    shares = {share.name: share for share in status(params, workspace, datetime.now(UTC)).shares}
    return shares.get(AUDIT)
