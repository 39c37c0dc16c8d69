"""The experts' reviews, and what they mean for a draft."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

from cot_builder.storage.output import stage_output
from cot_builder.storage.workspace import Workspace
from schemas.review import REVIEW, Review, ReviewRole
from schemas.table import Table


class Decision(NamedTuple):
    """What becomes of one draft."""

    status: Literal["accepted", "fixed", "rejected"]
    reasons: list[str]
    """Of a rejection."""
    trajectory: str
    """JSON, as the experts left it."""
    reviewers: int


def read_reviews(workspace: Workspace) -> list[Review]:
    """The reviews pulled so far; none where there is no table yet."""
    path = workspace.reviews
    return REVIEW.records(REVIEW.read(path)) if path.is_file() else []


def select_latest_reviews(reviews: Iterable[Review], role: ReviewRole) -> dict[str, list[Review]]:
    """The last applicable review of each reviewer in this role, in order of time, by ``draft_sha256``."""
    last: dict[str, dict[str, Review]] = {}
    for review in sorted(reviews, key=lambda row: (row.reviewed_at, row.review_id)):
        if review.role == role and not review.problems:
            by_reviewer = last.setdefault(review.draft_sha256, {})
            by_reviewer.pop(review.reviewer, None)
            by_reviewer[review.reviewer] = review
    return {digest: list(by_reviewer.values()) for digest, by_reviewer in last.items()}


def decide_drafts(reviews: Sequence[Review]) -> dict[str, Decision]:
    """What the experts decided, by ``draft_sha256``.

    The last word of each reviewer counts. One rejection leaves a draft out; of several corrections the latest
    is taken. Where somebody has adjudicated, that decision wins. Pages with a planted mistake decide nothing.
    """
    said, settled = select_latest_reviews(reviews, "review"), select_latest_reviews(reviews, "adjudication")
    found: dict[str, Decision] = {}
    for digest in dict.fromkeys([*said, *settled]):
        words = [*said.get(digest, []), *settled.get(digest, [])]
        # The latest adjudication is the last word, whoever adjudicated before.
        deciding = settled[digest][-1:] if digest in settled else words
        found[digest] = _decide(deciding, len({row.reviewer for row in words}))
    return found


def _decide(reviews: Sequence[Review], reviewers: int) -> Decision:
    fixed = [row for row in reviews if row.verdict == "fixed"]
    if any(row.verdict == "rejected" for row in reviews):
        reasons = list(dict.fromkeys(reason for row in reviews for reason in row.reasons))
        return Decision("rejected", reasons, reviews[-1].trajectory, reviewers)
    chosen = fixed[-1] if fixed else reviews[-1]
    return Decision("fixed" if fixed else "accepted", [], chosen.trajectory, reviewers)


def ensure_review_table(workspace: Workspace) -> None:
    """Make the empty table where nobody has reviewed yet, as :func:`ensure_empty_table` says."""
    ensure_empty_table(workspace, workspace.reviews, "review", REVIEW)


def ensure_empty_table(workspace: Workspace, path: Path, stage: str, table: Table) -> None:
    """Make the empty ``table`` where a frozen stage has brought nothing yet: DVC asks it for its output.

    Where dvc.lock knows of reviews that are not here, none is made: DVC then says that they are missing, and
    `dvc pull` or `dvc checkout` brings them.
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
        # Imported here: it takes half a second, and most readers of reviews need no interval.
        from scipy.stats import binomtest

        found = binomtest(self.accepted + self.fixed, self.reviewed).proportion_ci(method="wilson")
        return float(found.low), float(found.high)
