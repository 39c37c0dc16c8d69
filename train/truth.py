"""What rewards are scored against: the benchmark's own truth of an image, and an expert's where one corrected a row.

The verdict of a corpus row is no truth: it is what the teacher wrote, whose boxes a gate let pass near the true ones,
or anywhere where no place was published.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from cot_builder.corpus.writing import row_id
from cot_builder.storage.workspace import Workspace
from schemas.errors import IndusCotError
from schemas.supervision import SUPERVISION
from schemas.trajectory import DRAFT

Truth = Mapping[str, Mapping[str, Any]]
"""By the id of a row ``answer``, ``boxes`` and ``defect_type``. Only rewards are given it.

A Yes without boxes is a defect whose place was never published.
"""
VERDICT = ("answer", "boxes", "defect_type")


def read_truth(workspace: Workspace, rows: Any) -> Truth:
    """The truth of each row, by its id.

    The samples' supervision says it. Of a row that experts corrected, the parts of its verdict that are no longer those
    of the draft are theirs, and stand; with another answer the whole verdict does.

    Args:
        workspace: Holds ``data/select`` and, where a row was corrected, ``data/draft``.
        rows: Of a split, as :func:`train.corpus.read` gives them.

    Raises:
        IndusCotError: supervision or drafts are not there, or a row is of a sample that they do not hold.
    """
    published = _published(workspace)
    chosen = rows.with_format(None).select_columns(["id", "sample_id", "review_status", *VERDICT]).to_list()
    fixed = {row["id"] for row in chosen if row["review_status"] == "fixed"}
    drafted = _drafted(workspace) if fixed else {}
    found = {}
    for row in chosen:
        truth = published.get(row["sample_id"])
        if truth is None or (row["id"] in fixed and row["id"] not in drafted):
            raise IndusCotError(
                f"{workspace.indus_cot}, row {row['id']}: data/select or data/draft no longer holds its sample "
                f"{row['sample_id']}, whose truth rewards are scored against; run `indus-cot repro assemble`"
            )
        found[row["id"]] = _corrected(row, drafted[row["id"]], truth) if row["id"] in fixed else truth
    return found


def _corrected(row: Mapping[str, Any], draft: Mapping[str, Any], truth: Mapping[str, Any]) -> Mapping[str, Any]:
    if row["answer"] != draft["answer"]:
        return {name: row[name] for name in VERDICT}
    return {**truth, **{name: row[name] for name in VERDICT if row[name] != draft[name]}}


def _published(workspace: Workspace) -> dict[str, Mapping[str, Any]]:
    table = SUPERVISION.read(workspace.select / "supervision.parquet")
    answer = pl.when(pl.col("label") == "anomalous").then(pl.lit("Yes")).otherwise(pl.lit("No")).alias("answer")
    return {row.pop("sample_id"): row for row in table.select("sample_id", answer, *VERDICT[1:]).to_dicts()}


def _drafted(workspace: Workspace) -> dict[str, Mapping[str, Any]]:
    table = DRAFT.read(workspace.draft / "trajectory.parquet")
    return {row_id(row.pop("draft_id")): row for row in table.select("draft_id", *VERDICT).to_dicts()}
