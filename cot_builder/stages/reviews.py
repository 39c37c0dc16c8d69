"""The experts' reviews, and what they mean for a draft."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import yaml

from cot_builder.storage.output import stage_output
from cot_builder.storage.workspace import Workspace
from schemas.review import REVIEW, Review

TABLE = "reviews.parquet"


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
    path = workspace.review / TABLE
    return REVIEW.records(REVIEW.read(path)) if path.is_file() else []


def decisions(reviews: Iterable[Review]) -> dict[str, Decision]:
    """What the experts decided, by ``draft_sha256``.

    The last word of each reviewer counts. One rejection leaves a draft out; of several corrections the latest
    is taken.
    """
    last: dict[str, dict[str, Review]] = {}
    for review in sorted(reviews, key=lambda row: row.reviewed_at):
        if not review.problems:
            last.setdefault(review.draft_sha256, {})[review.reviewer] = review
    return {digest: _decide(list(by_reviewer.values())) for digest, by_reviewer in last.items()}


def _decide(reviews: list[Review]) -> Decision:
    reviews.sort(key=lambda row: row.reviewed_at)
    fixed = [row for row in reviews if row.verdict == "fixed"]
    if any(row.verdict == "rejected" for row in reviews):
        reasons = list(dict.fromkeys(reason for row in reviews for reason in row.reasons))
        return Decision("rejected", reasons, reviews[-1].trajectory, len(reviews))
    chosen = fixed[-1] if fixed else reviews[-1]
    return Decision("fixed" if fixed else "accepted", [], chosen.trajectory, len(reviews))


def ensure_table(workspace: Workspace) -> None:
    """Make the empty table where nobody has reviewed yet: DVC asks a frozen stage for its output.

    Where dvc.lock knows of reviews that are not here, none is made: DVC then says that they are missing, and
    `dvc pull` or `dvc checkout` brings them.
    """
    if (workspace.review / TABLE).is_file() or _locked(workspace):
        return
    with stage_output(workspace.review, stage="review", params={}, inputs={}) as output:
        REVIEW.write(REVIEW.frame([]), output.path / TABLE)


def _locked(workspace: Workspace) -> bool:
    path = workspace.root / "dvc.lock"
    if not path.is_file():
        return False
    return "review" in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {})
