"""The forms that an endpoint teacher fills in: their JSON schemas, and parsing of the answers."""

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import json_repair
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from cot_builder.inspection.tools import TOOLS
from schemas.trajectory import ToolName

Form = TypeVar("Form", bound=BaseModel)
Fault = Literal["none", "place", "count", "polarity", "absent_feature", "invented_defect", "viewpoint", "shortcut"]


class _Form(BaseModel):
    # No defaults: strict structured output requires every property.
    model_config = ConfigDict(frozen=True, extra="forbid")


def _collect_arguments() -> dict[str, Any]:
    """Return a nullable field for every parameter of every tool; parameters of the same name share the union type."""
    hints: dict[str, Any] = {}
    for tool in TOOLS.values():
        for name, parameter in tool.signature.parameters.items():
            hints[name] = hints.get(name, parameter.annotation) | parameter.annotation
    return {name: (hint | None, ...) for name, hint in hints.items()}


if TYPE_CHECKING:

    class PlannedCall(_Form):
        """The model made below has the arguments of every tool between these."""

        tool: ToolName
        why: str

else:
    PlannedCall = create_model(
        "PlannedCall",
        __base__=_Form,
        __module__=__name__,
        __doc__="A tool call with every argument any tool has; null where the tool has none of that name.",
        tool=(Literal[tuple(TOOLS)], ...),
        **_collect_arguments(),
        why=(str, ...),
    )


class Description(_Form):
    """Stage 1: what is seen, what is doubtful, which tools on which regions."""

    seen: str
    doubts: list[str]
    calls: list[PlannedCall]


class Composition(_Form):
    """Stage 2: the thoughts of each turn and the verdict."""

    thoughts: list[str]
    answer: Literal["Yes", "No"]
    boxes: list[list[int]]
    type: str | None


class Statement(_Form):
    """One statement of a draft, checked."""

    thought: int
    quote: str
    fault: Fault


class Audit(_Form):
    """A second reading, without supervision."""

    statements: list[Statement]


class Scores(_Form):
    """The rubric, 1 to 5 each."""

    grounding: Literal[1, 2, 3, 4, 5]
    reasoning: Literal[1, 2, 3, 4, 5]
    tools: Literal[1, 2, 3, 4, 5]
    wording: Literal[1, 2, 3, 4, 5]
    remark: str


class Blind(_Form):
    """A verdict without supervision."""

    reason: str
    answer: Literal["Yes", "No"]
    confidence: int


class PriorText(_Form):
    """What a sound part looks like."""

    text: str


def response_format(form: type[BaseModel], structured: str) -> dict[str, Any] | None:
    """Return the ``response_format`` of a request: a strict JSON schema, JSON mode, or None."""
    if structured == "schema":
        schema = {"name": form.__name__.lower(), "strict": True, "schema": _schema(form)}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"} if structured == "json" else None


@cache
def _schema(form: type[BaseModel]) -> dict[str, Any]:
    # Cached: pydantic rebuilds the schema on every call, which takes as long as the rest of a request.
    return form.model_json_schema()


def describe_schema(form: type[BaseModel]) -> str:
    """Describe the form's schema in a phrase of the prompt, for endpoints without structured output."""
    schema = json.dumps(_schema(form), separators=(",", ":"))
    return f"as one JSON object, and nothing else, that fits this JSON schema: {schema}"


def read_form(form: type[Form], text: str) -> Form:
    """Parse the form in a model's answer; tolerates code fences, prose before the object and small JSON errors.

    Raises:
        ValueError: the answer has no such object, or a value is invalid; the message goes back to the model.
    """
    if not text.strip():
        raise ValueError("it was empty")
    start = text.find("{")
    if start < 0:
        raise ValueError("it holds no JSON object")
    body = re.sub(r"\s*```\s*$", "", text[start:])
    try:
        value = json.loads(body)
    except ValueError:
        value = json_repair.loads(body)
    try:
        return form.model_validate(value)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'the object'}: {item['msg']}" for item in error.errors()[:4]]
        raise ValueError("; ".join(problems)) from None
