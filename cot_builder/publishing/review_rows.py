"""Rows of `review`: expert reviews of drafts, under pseudonyms."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cot_builder.corpus.writing import row_id
from cot_builder.publishing.pseudonyms import make_pseudonym
from cot_builder.publishing.rows import RowContext
from cot_builder.storage.workspace import Workspace
from schemas.review import Review
from schemas.trajectory import DRAFT


class CurrentReviews(NamedTuple):
    """Reviews of current drafts."""

    by_row: dict[str, list[Review]]
    """Reviews by the row id of their draft."""
    samples: Mapping[str, str]
    """Sample of each draft, by row id."""


def select_current_reviews(workspace: Workspace, reviews: Sequence[Review], counts: Counter[str]) -> CurrentReviews:
    """Select the reviews of current drafts; ``counts`` receives the number of the others.

    A gold page is exempt, because it shows a modified draft on purpose.
    """
    table = workspace.draft / "trajectory.parquet"
    drafts = DRAFT.read(table) if reviews and table.is_file() else DRAFT.frame([])
    current = set(drafts["draft_sha256"])
    samples = {row_id(name): sample for name, sample in drafts.select("draft_id", "sample_id").iter_rows()}
    found: dict[str, list[Review]] = {}
    for review in reviews:
        identity = row_id(review.draft_id)
        if identity not in samples:
            counts["reviews left out: of drafts that are no more"] += 1
        elif review.role != "gold" and review.draft_sha256 not in current:
            # The review is of an earlier draft of the row; `assemble` ignores it, too.
            counts["reviews left out: of earlier drafts"] += 1
        else:
            found.setdefault(identity, []).append(review)
    return CurrentReviews(found, samples)


def make_review_row(context: RowContext, review: Review, sample: str) -> dict[str, Any]:
    """Build a row of `review`."""
    said = review.model_dump(
        include={
            "seconds", "verdict", "reasons", "evidence_rating", "logic_rating", "changes", "caught", "problems"
        }
    )  # fmt: skip
    return {
        "id": make_pseudonym(context.salt, review.review_id, 16),
        "row": row_id(review.draft_id),
        "sample_id": sample,
        "reviewer": f"reviewer-{make_pseudonym(context.salt, review.reviewer.lower(), 8)}",
        "role": review.role,
        "day": review.reviewed_at[:10],
        **said,
        "licence": context.params.publish.licence,
    }
