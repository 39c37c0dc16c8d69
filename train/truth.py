"""Reads the truth that rewards are scored against: the benchmark's labels, and the experts' corrections of rows.

The verdict of a corpus row is not the truth. The teacher wrote it, and the gates accept boxes near the true ones, or
anywhere if no place was published.
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
"""Maps the id of a row to ``answer``, ``boxes`` and ``defect_type``. Only rewards may read it.

A Yes without boxes is a defect whose place was never published.
"""
VERDICT = ("answer", "boxes", "defect_type")


def read_truth(workspace: Workspace, rows: Any) -> Truth:
    """Return the truth of each row, by row id.

    It comes from the supervision of the samples. If experts corrected a row, the fields of its verdict that differ from
    the draft are their corrections and override the supervision. If they changed the answer, the whole verdict does.

    Args:
        workspace: Holds ``data/select`` and, if a row was corrected, ``data/draft``.
        rows: Rows of a split, from :func:`train.corpus.read`.

    Raises:
        IndusCotError: supervision or drafts are missing, or lack the sample of a row.
    """
    published = _read_published(workspace)
    chosen = rows.with_format(None).select_columns(["id", "sample_id", "review_status", *VERDICT]).to_list()
    fixed = {row["id"] for row in chosen if row["review_status"] == "fixed"}
    drafted = _read_drafts(workspace) if fixed else {}
    found = {}
    for row in chosen:
        truth = published.get(row["sample_id"])
        if truth is None or (row["id"] in fixed and row["id"] not in drafted):
            raise IndusCotError(
                f"{workspace.indus_cot}, row {row['id']}: data/select or data/draft no longer holds its sample "
                f"{row['sample_id']}, and rewards need its truth; run `indus-cot repro assemble`"
            )
        found[row["id"]] = _apply_correction(row, drafted[row["id"]], truth) if row["id"] in fixed else truth
    return found


def _apply_correction(row: Mapping[str, Any], draft: Mapping[str, Any], truth: Mapping[str, Any]) -> Mapping[str, Any]:
    if row["answer"] != draft["answer"]:
        return {name: row[name] for name in VERDICT}
    return {**truth, **{name: row[name] for name in VERDICT if row[name] != draft[name]}}


def _read_published(workspace: Workspace) -> dict[str, Mapping[str, Any]]:
    table = SUPERVISION.read(workspace.select / "supervision.parquet")
    answer = pl.when(pl.col("label") == "anomalous").then(pl.lit("Yes")).otherwise(pl.lit("No")).alias("answer")
    return {row.pop("sample_id"): row for row in table.select("sample_id", answer, *VERDICT[1:]).to_dicts()}


def _read_drafts(workspace: Workspace) -> dict[str, Mapping[str, Any]]:
    table = DRAFT.read(workspace.draft / "trajectory.parquet")
    return {row_id(row.pop("draft_id")): row for row in table.select("draft_id", *VERDICT).to_dicts()}
