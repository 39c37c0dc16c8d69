"""Drafts and reports with the gate `front_view`; writes the results as JSON.

:mod:`tests.house.test_new_gate` runs it in a copy of the product to which one file was added.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl

import cot_builder
from tests.house.small_project import make_project, run, settings, write_result


def collect_results() -> dict[str, Any]:
    """Draft with the offline teacher, assemble and report; return the results."""
    make_project()
    printed = run(*settings(teacher__backend="offline"), "draft") + run("assemble") + run("report")
    kept, rejected = (pl.read_parquet(f"data/draft/{name}.parquet") for name in ("trajectory", "rejected"))
    samples = pl.read_parquet("data/select/sample.parquet").filter(pl.col("view") == "C2")
    return {
        "code": cot_builder.__file__,
        "printed": printed,
        "from_behind": samples["sample_id"].to_list(),
        "kept": kept.select("sample_id", "gates").to_dicts(),
        "rejected": rejected.select("sample_id", "gates", "violations").to_dicts(),
        "figures": json.loads(Path("reports/gates.json").read_text(encoding="utf-8")),
        "page": Path("reports/index.html").read_text(encoding="utf-8"),
    }


if __name__ == "__main__":
    write_result(collect_results())
