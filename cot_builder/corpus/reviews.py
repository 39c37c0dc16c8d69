"""Read the experts' reviews, and decide from them which drafts are accepted."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from cot_builder.storage.output import stage_output
from cot_builder.storage.workspace import Workspace
from schemas.review import REVIEW, Review, ReviewRole
from schemas.table import Table


class Decision(NamedTuple):
    """The experts' decision on one draft."""

    status: Literal["accepted", "fixed", "rejected"]
    reasons: list[str]
    """Reasons of a rejection; empty otherwise."""
    trajectory: str
    """The trajectory as JSON, with the experts' corrections."""
    reviewers: int


def read_reviews(workspace: Workspace) -> list[Review]:
    """Read the reviews pulled so far; empty if there is no table yet."""
    path = workspace.reviews
    return REVIEW.records(REVIEW.read(path)) if path.is_file() else []


def select_latest_reviews(reviews: Iterable[Review], role: ReviewRole) -> dict[str, list[Review]]:
    """Return the latest applicable review of each reviewer in this role, by ``draft_sha256``, sorted by time."""
    last: dict[str, dict[str, Review]] = {}
    for review in sorted(reviews, key=lambda row: (row.reviewed_at, row.review_id)):
        if review.role == role and not review.problems:
            by_reviewer = last.setdefault(review.draft_sha256, {})
            by_reviewer.pop(review.reviewer, None)
            by_reviewer[review.reviewer] = review
    return {digest: list(by_reviewer.values()) for digest, by_reviewer in last.items()}


def decide_drafts(reviews: Sequence[Review]) -> dict[str, Decision]:
    """Decide on each reviewed draft, by ``draft_sha256``.

    The latest review of each reviewer counts. One rejection rejects the draft; of several corrections the latest is
    used. An adjudication overrides all reviews. Reviews of pages with a planted mistake are ignored.
    """
    reviewed, adjudicated = select_latest_reviews(reviews, "review"), select_latest_reviews(reviews, "adjudication")
    found: dict[str, Decision] = {}
    for digest in dict.fromkeys([*reviewed, *adjudicated]):
        both = [*reviewed.get(digest, []), *adjudicated.get(digest, [])]
        # If several people have adjudicated, only the latest adjudication counts.
        deciding = adjudicated[digest][-1:] if digest in adjudicated else both
        found[digest] = _decide(deciding, len({row.reviewer for row in both}))
    return found


def _decide(reviews: Sequence[Review], reviewers: int) -> Decision:
    fixed = [row for row in reviews if row.verdict == "fixed"]
    if any(row.verdict == "rejected" for row in reviews):
        reasons = list(dict.fromkeys(reason for row in reviews for reason in row.reasons))
        return Decision("rejected", reasons, reviews[-1].trajectory, reviewers)
    chosen = fixed[-1] if fixed else reviews[-1]
    return Decision("fixed" if fixed else "accepted", [], chosen.trajectory, reviewers)


def ensure_review_table(workspace: Workspace) -> None:
    """Write an empty table if no draft has been reviewed yet; see :func:`ensure_empty_table`."""
    ensure_empty_table(workspace, workspace.reviews, "review", REVIEW)


def ensure_empty_table(workspace: Workspace, path: Path, stage: str, table: Table) -> None:
    """Write an empty ``table`` if a frozen stage has no output yet, because DVC requires the output to exist.

    If dvc.lock lists reviews that are missing here, no empty table is written: DVC then reports them as missing, and
    `dvc pull` or `dvc checkout` restores them.
    """
    if path.is_file() or _is_in_dvc_lock(workspace, stage):
        return
    with stage_output(path.parent, stage=stage, params={}, inputs={}) as output:
        table.write(table.frame([]), output.path / path.name)


def _is_in_dvc_lock(workspace: Workspace, stage: str) -> bool:
    path = workspace.root / "dvc.lock"
    if not path.is_file():
        return False
    return stage in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {})


class AcceptedShare(NamedTuple):
    """Share of reviewed drafts that experts accepted or fixed."""

    name: str
    accepted: int
    fixed: int
    reviewed: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of accepted and fixed drafts (Wilson 1927); 0 to 1 if nothing is reviewed."""
        if not self.reviewed:
            return 0.0, 1.0
        # Imported here: it takes half a second, and most readers of reviews need no interval.
        from scipy.stats import binomtest

        found = binomtest(self.accepted + self.fixed, self.reviewed).proportion_ci(method="wilson")
        return float(found.low), float(found.high)
