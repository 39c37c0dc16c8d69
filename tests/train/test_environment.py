"""Tests the inspection tools as an environment of TRL."""

import inspect
import io

import numpy as np
import pytest
from PIL import Image

from cot_builder.inspection.toolbox import Toolbox, tool_schemas
from schemas.trajectory import ToolCall
from train.environment import InspectionEnvironment

PRIORS = {("bolt", "C1"): "A sound bolt is even."}


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 255, (80, 100, 3), np.uint8)


@pytest.fixture
def environment(pixels: np.ndarray) -> InspectionEnvironment:
    made = InspectionEnvironment(PRIORS)
    made.reset(image=Image.fromarray(pixels[:, :, ::-1]))
    return made


def _tools(environment: InspectionEnvironment) -> dict:
    """Collect the tools as TRL does."""
    members = inspect.getmembers(type(environment), predicate=inspect.isfunction)
    return {name: getattr(environment, name) for name, _ in members if name != "reset" and not name.startswith("_")}


def test_trl_derives_corpus_schemas(environment: InspectionEnvironment) -> None:
    from transformers.utils import get_json_schema

    derived = [get_json_schema(tool) for tool in _tools(environment).values()]
    for schema in derived:
        schema["function"]["parameters"].setdefault("required", [])
    assert derived == tool_schemas()


@pytest.mark.parametrize(
    "call",
    [
        ToolCall(tool="crop", arguments={"region": [100, 100, 600, 700]}),
        ToolCall(tool="crop", arguments={}),
        ToolCall(tool="enhance", arguments={"operator": "canny"}),
        ToolCall(tool="measure", arguments={"points": [[0, 0], [1000, 1000]]}),
        ToolCall(tool="prior", arguments={"category": "bolt", "view": "C1"}),
    ],
)
def test_observations_match_toolbox(environment: InspectionEnvironment, pixels: np.ndarray, call: ToolCall) -> None:
    due, png = Toolbox(pixels, PRIORS).observe(call)
    blocks = getattr(environment, call.tool)(**call.arguments)
    assert blocks[-1] == {"type": "text", "text": due.text}
    assert [block["type"] for block in blocks] == (["image", "text"] if png else ["text"])
    if png:
        assert np.array_equal(np.asarray(blocks[0]["image"]), np.asarray(Image.open(io.BytesIO(png))))


@pytest.mark.parametrize(
    "arguments",
    [{"region": [9, 9, 1, 1]}, {"region": "all"}, {"box": [0, 0, 9, 9]}, {"self": 1}, {"region": [0, 0, 5000, 9]}],
)
def test_refused_call_is_an_observation(environment: InspectionEnvironment, arguments: dict) -> None:
    (block,) = environment.crop(**arguments)
    assert block["type"] == "text"
    assert block["text"].startswith("error: ")


def test_reset_drops_state_and_truth(environment: InspectionEnvironment) -> None:
    environment.crop()
    white = Image.new("RGB", (60, 60), "white")
    environment.reset(image=white, id="r", prompt=[], answer="Yes", boxes=[[1, 2, 3, 4]], defect_type="dent")
    (shown, _) = environment.crop(region=[0, 0, 1000, 1000])
    assert np.asarray(shown["image"]).min() == 255
    held = {name: value for name, value in vars(environment).items() if value is not PRIORS}
    assert set(held) == {"_toolbox"}
    assert set(vars(held["_toolbox"])) == {"_image", "_priors"}
