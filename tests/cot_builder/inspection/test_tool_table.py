"""Tests of the table of tools, and of everything derived from it."""

import json
from hashlib import sha256

import pytest

from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.inspection.tools import TOOLBOX_VERSION, TOOLS, ToolResult, offered_tools
from cot_builder.inspection.tools.tool import tool
from cot_builder.params import load_params
from cot_builder.teacher.forms import Description, describe_schema, response_format
from indus_cot.names import check_names
from schemas.errors import IndusCotError


def digest(value: object) -> str:
    """Hash of the bytes that a request contains."""
    return sha256(json.dumps(value).encode()).hexdigest()


def test_tool_schemas_are_unchanged():
    """Cached answers of the teacher are found by these bytes, and published corpora contain them."""
    assert digest(tool_schemas()) == "1b2b26b5252eed8197d404feebe15b788bd365ce93595e0f9dba14631169df01"
    assert TOOLBOX_VERSION == "5"


def test_description_form_is_unchanged():
    form = response_format(Description, "schema")
    assert digest(form) == "380779c18f12c69f3215e1eb6d53c0772fcc1286efa8b05cf4dd694d7ff1cf1a"
    words = sha256(describe_schema(Description).encode()).hexdigest()
    assert words == "421dbe989eca631d1826640822417899813f6ebcfc8bd85cac9c00ba98296d2d"


@pytest.mark.parametrize(
    ("mode", "offered"),
    [
        ("agent", ("crop", "enhance", "measure", "prior")),
        ("agent-without-enhance", ("crop", "measure", "prior")),
        ("agent-no-tools", ()),
        ("direct", ()),
    ],
)
def test_tools_offered_in_a_mode(mode, offered):
    assert offered_tools(mode) == offered


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_can_be_left_out(name):
    check_names(load_params(settings=[f"evaluate.mode=agent-without-{name}"]))
    assert set(TOOLS) - set(offered_tools(f"agent-without-{name}")) == {name}


def test_unknown_tool_in_a_mode_is_rejected():
    params = load_params(settings=["evaluate.mode=agent-without-corp"])
    with pytest.raises(IndusCotError, match=r"evaluate\.mode: no 'agent-without-corp'.*mean agent-without-crop\?"):
        check_names(params)


@pytest.mark.parametrize("mode", ["agents", "agent-without-", "agent-without-Crop", "agent-without-crop ", "plain"])
def test_malformed_mode_is_rejected(mode):
    with pytest.raises(IndusCotError, match=r"evaluate\.mode: must be agent, agent-no-tools, agent-without-TOOL"):
        load_params(settings=[f"evaluate.mode={json.dumps(mode)}"])


def undescribed(bins: int) -> ToolResult:
    """Count something."""
    return ToolResult(str(bins))


def untyped(bins: bytes) -> ToolResult:
    """Count something.

    Args:
        bins: How many.
    """
    return ToolResult(str(bins))


def crop(bins: int) -> ToolResult:
    """Count something.

    Args:
        bins: How many.
    """
    return ToolResult(str(bins))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (undescribed, "tool undescribed: describe bins under Args:"),
        (untyped, "a tool's parameter cannot be <class 'bytes'>"),
        (crop, "tool crop: cot_builder.inspection.tools.crop already defines a tool of this name"),
    ],
)
def test_invalid_function_is_not_registered(function, message):
    before = dict(TOOLS)
    with pytest.raises(TypeError, match=message):
        tool(version=6, mentions="x", results="y")(function)
    assert before == TOOLS
