"""Uses the tool `histogram` as policy, teacher, gates and `verify` do; writes the results as JSON.

:mod:`tests.house.test_new_tool` runs it in a copy of the product to which one file was added.
"""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

import cot_builder
from cot_builder.corpus.reading import read_all
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.inspection.tools import TOOLBOX_VERSION
from cot_builder.params import load_params
from cot_builder.teacher.gates import run_gates
from tests.cot_builder.teacher.test_gates import case
from tests.helpers import scripted_teacher
from tests.house.small_project import make_project, run, settings, write_result
from tests.servers.chat_server import Body, chat_server, get_text
from train.environment import InspectionEnvironment

CALL = '<think>The tones.</think>\n<tool_call>\n{"name": "histogram", "arguments": {"bins": 4}}\n</tool_call>'
VERDICT = "<think>It is even.</think><answer>No</answer>"


def teach(body: Body) -> dict[str, Any]:
    """Answer as a teacher that fills in each form and requests the histogram of every image."""
    filled = scripted_teacher.answer_form(body)
    schema = body["response_format"]["json_schema"]
    if schema["name"] == "description":
        fields = schema["schema"]["$defs"]["PlannedCall"]["properties"]
        call = dict.fromkeys(fields) | {"tool": "histogram", "bins": 4, "why": "the tones decide"}
        return filled | {"calls": [call]}
    if schema["name"] == "composition":
        start = filled["thoughts"][0].split(".")[0]
        concludes = "so there is a defect." if filled["answer"] == "Yes" else "so there is no defect."
        first, last = f"{start}. I ask for the histogram of its tones.", f"The histogram shows them, {concludes}"
        return filled | {"thoughts": [first, last]}
    return filled


def inspect(body: Body) -> str:
    """Answer as a policy that requests the histogram once, then gives its verdict."""
    return CALL if len(body["messages"]) == 2 else VERDICT


def evaluate(mode: str) -> dict[str, Any]:
    """Evaluate in a mode; return the policy's first request, its transcript and the number of observations."""
    with chat_server(inspect) as server:
        chosen = settings(evaluate__base_url=server.url, evaluate__mode=mode)
        printed = run(*chosen, "evaluate", "held_out", "--results", f"results-{mode}")
    table = Path(f"results-{mode}", "held_out", "predictions.parquet")
    found = {"printed": printed, "told": get_text(server.requests[0]) if server.requests else ""}
    return found | (
        pl.read_parquet(table).select("transcript", "observed").row(0, named=True) if table.exists() else {}
    )


def draft_with_teacher() -> dict[str, Any]:
    """Draft with the endpoint teacher; return the corpus rows and the output of `verify`."""
    with chat_server(teach) as server:
        printed = [run(*settings(teacher__base_url=server.url), "draft")]
    printed += [run("assemble"), run("verify", "data/indus_cot")]
    rows = [json.loads(row.trajectory) | {"version": row.toolbox_version} for row in read_all(Path("data/indus_cot"))]
    change_observation(Path("data/indus_cot/data"))
    return {"printed": printed, "rows": rows, "changed": run("verify", "data/indus_cot")}


def change_observation(folder: Path) -> None:
    """Change a tool's observation in the first row of the corpus."""
    shard = min(folder.glob("*.parquet"))
    table = pq.read_table(shard)
    rows = table.to_pylist()
    rows[0]["trajectory"] = rows[0]["trajectory"].replace("Grey levels", "Grey tones")
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), shard)


def observe_in_environment() -> list[dict[str, Any]]:
    """Return the tool's observation in the GRPO environment."""
    environment = InspectionEnvironment({})
    environment.reset(image=Image.new("RGB", (64, 64), "white"))
    return environment.histogram(bins=4)  # type: ignore[attr-defined,no-any-return]


def list_violations(*thoughts: str) -> list[str]:
    """Return the gate violations of a draft without calls."""
    return [f"{violation.gate}: {violation.reason}" for violation in run_gates(case(*thoughts))]


def collect_results() -> dict[str, Any]:
    """Run all uses in the order of a project; return the results."""
    make_project()
    return {
        "code": cot_builder.__file__,
        "version": TOOLBOX_VERSION,
        "schemas": tool_schemas(),
        "draft": draft_with_teacher(),
        "modes": {mode: evaluate(mode) for mode in ("agent", "agent-without-histogram", "agent-without-histogramm")},
        "observed": observe_in_environment(),
        "gates": {
            "mentioned": list_violations("The histogram of the nut tells that it has a defect."),
            "reported": list_violations("The histogram shows a second peak, so the nut has a defect."),
        },
        "teacher": load_params().teacher.backend,
    }


if __name__ == "__main__":
    write_result(collect_results())
