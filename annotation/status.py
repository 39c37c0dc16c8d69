"""How far the review is, and what it says of the drafts: from the reviews pulled so far, without the server."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from scipy.stats import binomtest

from annotation.queue import place
from cot_builder.params import Params
from cot_builder.stages.reviews import Decision, decisions, read_reviews
from cot_builder.storage.workspace import Workspace
from schemas.trajectory import DRAFT, Draft


class Share(NamedTuple):
    """Drafts an expert took, accepted or fixed, of those reviewed."""

    name: str
    accepted: int
    fixed: int
    reviewed: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of accepted and fixed (Wilson 1927); 0 to 1 where nothing is reviewed."""
        if not self.reviewed:
            return 0.0, 1.0
        found = binomtest(self.accepted + self.fixed, self.reviewed).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


class Status(NamedTuple):
    """Figures of the review."""

    drafts: int
    decided: int
    """Drafts as they are now that somebody has decided on."""
    sent_back: int
    """Drafts whose review went back, and that nobody has decided on since."""
    stale: int
    """Reviews of drafts that have changed since."""
    seconds: float
    """Median time on a page; 0 where nothing is reviewed."""
    hours_left: float
    """At that pace, for what is undecided, by one person."""
    reviewers: dict[str, int]
    """Reviews by person."""
    shares: list[Share]
    """Of all, of the random audit, by teacher and version of the prompts, by reason to look."""
    problems: dict[str, int]
    """Reviews that went back, by gate or cause."""
    usd_an_accepted: float | None
    """What drafting did cost for each draft taken, at the share taken so far; None where none is."""


def status(params: Params, workspace: Workspace) -> Status:
    """Hold the reviews pulled so far against the drafts of today.

    Raises:
        IndusCotError: there are no drafts.
    """
    drafts: list[Draft] = DRAFT.records(DRAFT.read(workspace.draft / "trajectory.parquet"))
    current = {draft.draft_sha256 for draft in drafts}
    reviews = read_reviews(workspace)
    decided = {digest: item for digest, item in decisions(reviews).items() if digest in current}
    sent_back = {row.draft_sha256 for row in reviews if row.problems} & current - decided.keys()
    places = {draft.draft_sha256: place(draft, params.review, params.run.seed) for draft in drafts}
    groups: dict[str, list[Draft]] = defaultdict(list)
    for draft in drafts:
        groups[f"{draft.teacher}, prompts {draft.prompt_version}"].append(draft)
        for why in places[draft.draft_sha256].why:
            groups[why].append(draft)
    shares = [
        _share("all", drafts, decided),
        _share("drawn at random", (draft for draft in drafts if places[draft.draft_sha256].audit), decided),
        *(_share(name, members, decided) for name, members in sorted(groups.items())),
    ]
    seconds = median([row.seconds for row in reviews] or [0.0])
    taken = shares[0].accepted + shares[0].fixed
    usd = sum(draft.cost_usd for draft in drafts if draft.draft_sha256 in decided)
    return Status(
        drafts=len(drafts),
        decided=len(decided),
        sent_back=len(sent_back),
        stale=sum(row.draft_sha256 not in current for row in reviews),
        seconds=seconds,
        hours_left=seconds * (len(drafts) - len(decided)) / 3600,
        reviewers=dict(Counter(row.reviewer for row in reviews).most_common()),
        shares=[share for share in shares if share.reviewed],
        problems=dict(Counter(text.partition(":")[0] for row in reviews for text in row.problems).most_common()),
        usd_an_accepted=usd / taken if taken else None,
    )


def _share(name: str, drafts: Iterable[Draft], decided: dict[str, Decision]) -> Share:
    found = Counter(decided[draft.draft_sha256].status for draft in drafts if draft.draft_sha256 in decided)
    return Share(name, found["accepted"], found["fixed"], found.total())
