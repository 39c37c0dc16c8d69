"""Rows of `review`: what experts said of drafts, under pseudonyms."""

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
    """What was said of drafts as they are now."""

    by_row: dict[str, list[Review]]
    """By the id of the row that each draft would be."""
    samples: Mapping[str, str]
    """Sample of each draft, by the same id."""


def select_current_reviews(workspace: Workspace, reviews: Sequence[Review], counts: Counter[str]) -> CurrentReviews:
    """The reviews of drafts as they are now; ``counts`` takes up how many others there are.

    A gold page shows another draft on purpose, with its mistake.
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
            # It was said of an earlier draft of the row, as `assemble` sees it too.
            counts["reviews left out: of earlier drafts"] += 1
        else:
            found.setdefault(identity, []).append(review)
    return CurrentReviews(found, samples)


def make_review_row(context: RowContext, review: Review, sample: str) -> dict[str, Any]:
    """A row of `review`."""
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
