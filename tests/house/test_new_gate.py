"""A new gate in one file: it runs, is recorded and reported."""

from typing import Any

import pytest

from tests.house.product_copy import copy_with, run_module

pytestmark = pytest.mark.slow

GATE = '''"""Gates on the view: front_view."""

from cot_builder.teacher.gates.gate import Case, gate


@gate
def front_view(case: Case) -> list[str]:
    """The photograph shows the front."""
    return [] if case.sample.view == "C1" else [f"view {case.sample.view} is not the front"]
'''


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    copy = copy_with(tmp_path_factory.mktemp("gate") / "product", {"cot_builder/teacher/gates/front_view.py": GATE})
    found: dict[str, Any] = run_module(copy, "tests.house.use_new_gate")
    assert found["code"] == str(copy / "cot_builder" / "__init__.py"), (
        "the code of the copy must run, not that of the checkout"
    )
    return found


def test_new_gate_rejects_drafts(used: dict[str, Any]) -> None:
    reason = {"gate": "front_view", "reason": "view C2 is not the front"}
    refused = {row["sample_id"] for row in used["rejected"] if reason in row["violations"]}
    assert refused == set(used["from_behind"]) != set(), used["printed"]
    assert not refused & {row["sample_id"] for row in used["kept"]} and used["kept"]


def test_drafts_record_new_gate(used: dict[str, Any]) -> None:
    assert all("front_view" in row["gates"] for row in (*used["kept"], *used["rejected"]))


def test_report_counts_new_gate(used: dict[str, Any]) -> None:
    assert used["figures"]["failed"]["front_view"] == len(used["from_behind"])
    assert "front view" in used["page"] and "The photograph shows the front." in used["page"]
