"""A fifth tool in one file: it works everywhere a tool is used."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.house.product_copy import copy_with, run_module

pytestmark = pytest.mark.slow

HISTOGRAM = '''"""histogram: how often each range of grey levels occurs."""

import cv2
import numpy as np

from cot_builder.inspection.tools.tool import CLAIM, ToolError, ToolResult, tool


@tool(version=6, mentions=r"\\bhistogram\\b", results=rf"\\bhistogram\\b[^.;]{{0,20}}\\b{CLAIM}\\b")
def histogram(image: np.ndarray, bins: int = 8) -> ToolResult:
    """Count the grey levels of the image.

    Args:
        bins: Number of bins, 2 to 16.

    Raises:
        ToolError: the number of bins is out of range.
    """
    if not isinstance(bins, int) or not 2 <= bins <= 16:
        raise ToolError(f"bins must be an integer 2-16; got {bins!r}")
    levels = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    shares = 100 * np.histogram(levels, bins, (0, 256))[0] / levels.size
    return ToolResult(f"Grey levels: {', '.join(f'{share:.0f} %' for share in shares)}.")
'''


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_with(
        tmp_path_factory.mktemp("tool") / "product", {"cot_builder/inspection/tools/histogram.py": HISTOGRAM}
    )


@pytest.fixture(scope="module")
def used(copy: Path) -> dict[str, Any]:
    found: dict[str, Any] = run_module(copy, "tests.house.use_new_tool")
    assert found["code"] == str(copy / "cot_builder" / "__init__.py"), (
        "the code of the copy must run, not that of the checkout"
    )
    return found


def test_policy_is_offered_new_tool(used: dict[str, Any]) -> None:
    names = [schema["function"]["name"] for schema in used["schemas"]]
    assert names == ["crop", "enhance", "histogram", "measure", "prior"]
    agent = used["modes"]["agent"]
    assert json.dumps(used["schemas"][2]) in agent["told"]
    assert agent["observed"] == 1 and "Grey levels: " in agent["transcript"]


def test_grpo_environment_runs_new_tool(used: dict[str, Any]) -> None:
    assert used["observed"] == [{"type": "text", "text": "Grey levels: 0 %, 0 %, 0 %, 100 %."}]


def test_teacher_plans_new_tool(used: dict[str, Any]) -> None:
    assert used["teacher"] == "endpoint"
    rows = used["draft"]["rows"]
    assert len(rows) == 22, used["draft"]["printed"]
    for row in rows:
        first = row["turns"][0]
        assert first["call"] == {"tool": "histogram", "arguments": {"bins": 4}}
        assert first["observation"]["text"].startswith("Grey levels: ")


def test_mode_switches_new_tool_off(used: dict[str, Any]) -> None:
    without = used["modes"]["agent-without-histogram"]
    assert '"name": "crop"' in without["told"] and "histogram" not in without["told"]
    assert without["observed"] == 0
    assert "no tool 'histogram'; there are crop, enhance, measure, prior" in without["transcript"]
    assert "did you mean agent-without-histogram?" in used["modes"]["agent-without-histogramm"]["printed"]


def test_verify_replays_new_tool(used: dict[str, Any]) -> None:
    assert used["version"] == "6" and {row["version"] for row in used["draft"]["rows"]} == {"6"}
    assert "22 trajectories, 22 tool calls replayed, all equal" in used["draft"]["printed"][-1]
    assert "the tool returns 'Grey levels: " in used["draft"]["changed"]


def test_gates_know_new_tool(used: dict[str, Any]) -> None:
    mentioned, reported = used["gates"]["mentioned"], used["gates"]["reported"]
    assert mentioned == ["evidence: thought 1 speaks of 'histogram', but histogram was not called"]
    assert "evidence: thought 1 reports 'histogram shows a second peak' before histogram returned anything" in reported
