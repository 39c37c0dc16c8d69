"""Tests of the toolbox, and of trajectories rendered as chat messages and tags."""

import json
import re

import numpy as np
import pytest
from pydantic import ValidationError

from cot_builder.inspection import rendering
from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from cot_builder.inspection.tools import ToolError
from schemas.taxonomy import leaves
from schemas.trajectory import ToolCall, Trajectory, Turn, Verdict

IMAGE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)


def make_trajectory() -> Trajectory:
    toolbox = Toolbox(IMAGE, {("nut", "C1"): "A nut is round."})
    calls = [
        ToolCall(tool="crop", arguments={"region": [0, 0, 300, 300]}),
        ToolCall(tool="prior", arguments={"category": "nut", "view": "C1"}),
    ]
    turns = [
        Turn(thought=f"Thought {i}.", call=call, observation=toolbox.observe(call)[0]) for i, call in enumerate(calls)
    ]
    turns.append(Turn(thought="So it is scratched."))
    return Trajectory(
        turns=turns, verdict=Verdict(answer="Yes", boxes=[(1, 2, 30, 40), (5, 5, 9, 9)], defect_type="scratch")
    )


def test_messages_contain_query_and_observation_images():
    chat = rendering.render_messages(make_trajectory(), "nut", "C1")
    assert [m["role"] for m in chat] == ["system", "user", "assistant", "tool", "assistant", "tool", "assistant"]
    images = [[part["type"] for part in m["content"]].count("image") for m in chat]
    assert images == [0, 1, 0, 1, 0, 0, 0]
    assert chat[2]["tool_calls"][0]["function"] == {"name": "crop", "arguments": {"region": [0, 0, 300, 300]}}
    assert chat[3]["name"] == "crop" and chat[5]["content"][0]["text"].endswith("A nut is round.")


def test_last_turn_follows_the_grammar():
    text = rendering.render_final_turn(make_trajectory())
    assert rendering.ANSWER_GRAMMAR.fullmatch(text)
    assert json.loads(re.search(r"<location>(.*)</location>", text).group(1)) == [[1, 2, 30, 40], [5, 5, 9, 9]]
    sound = Trajectory(turns=[Turn(thought="All is well.")], verdict=Verdict(answer="No"))
    assert rendering.render_final_turn(sound) == "<think>All is well.</think><answer>No</answer>"


def test_tags_follow_the_order_of_the_paper():
    tags = re.findall(r"<(/?\w+)", rendering.render_tags(make_trajectory()))
    step = ["think", "/think", "call_tool", "/call_tool", "observation"]
    end = ["think", "/think", "location", "/location", "type", "/type", "answer", "/answer"]
    assert tags == [*step, "image", "/observation", *step, "/observation", *end]


def test_chats_begin_with_the_prompt():
    chat = rendering.render_messages(make_trajectory(), "nut", "C1")
    assert chat[:2] == rendering.prompt("nut", "C1")
    assert all(name in chat[0]["content"][0]["text"] for name in leaves())


def test_schemas_describe_every_argument():
    schemas = {item["function"]["name"]: item["function"] for item in tool_schemas()}
    assert list(schemas) == ["crop", "enhance", "measure", "prior"]
    for function in schemas.values():
        assert function["description"]
        assert all(argument["description"] for argument in function["parameters"]["properties"].values())
    assert schemas["enhance"]["parameters"]["properties"]["operator"]["enum"] == ["clahe", "canny", "residual"]
    assert schemas["enhance"]["parameters"]["required"] == ["operator"]
    assert schemas["crop"]["parameters"]["properties"]["region"]["items"] == {"type": "integer"}
    assert schemas["measure"]["parameters"]["properties"]["points"]["items"]["items"] == {"type": "integer"}


def test_calls_of_every_tool_run():
    toolbox = Toolbox(IMAGE, {("nut", "C1"): "text"})
    for tool, arguments in (
        ("crop", {}),
        ("enhance", {"operator": "canny"}),
        ("measure", {"points": [[0, 0], [9, 9]]}),
        ("prior", {"category": "nut"}),
    ):
        assert toolbox.run(ToolCall(tool=tool, arguments=arguments)).text


@pytest.mark.parametrize(
    "tool, arguments, message",
    [
        ("crop", {"box": [0, 0, 1, 1]}, "crop: got an unexpected keyword argument 'box'"),
        ("measure", {}, "measure: missing a required argument: 'points'"),
        ("enhance", {"operator": "blur"}, "operator must be one of"),
    ],
)
def test_refused_call_explains_the_mistake(tool, arguments, message):
    call = ToolCall(tool=tool, arguments=arguments)
    toolbox = Toolbox(IMAGE, {})
    with pytest.raises(ToolError, match=message):
        toolbox.run(call)
    observation, png = toolbox.observe(call)
    assert observation.text.startswith("error: ") and message in observation.text and png is None


def test_observation_hash_is_of_png_bytes():
    import hashlib

    observation, png = Toolbox(IMAGE, {}).observe(ToolCall(tool="crop", arguments={"region": [0, 0, 500, 500]}))
    assert observation.image_sha256 == hashlib.sha256(png).hexdigest()


@pytest.mark.parametrize(
    "verdict",
    [
        {"answer": "Yes"},
        {"answer": "Yes", "boxes": [(1, 1, 2, 2)]},
        {"answer": "No", "boxes": [(1, 1, 2, 2)]},
        {"answer": "No", "defect_type": "scratch"},
        {"answer": "Yes", "boxes": [(5, 1, 2, 2)], "defect_type": "scratch"},
        {"answer": "Yes", "boxes": [(0, 0, 1001, 2)], "defect_type": "scratch"},
    ],
)
def test_inconsistent_verdict_is_rejected(verdict):
    with pytest.raises(ValidationError):
        Verdict(**verdict)


def test_trajectory_must_end_without_a_call():
    call = ToolCall(tool="crop", arguments={})
    turn = Turn(thought="x", call=call, observation=Toolbox(IMAGE, {}).observe(call)[0])
    with pytest.raises(ValidationError):
        Trajectory(turns=[turn], verdict=Verdict(answer="No"))
    with pytest.raises(ValidationError):
        Turn(thought="x", call=call)
