"""The tools bound to one image: what the teacher, the rollouts and the evaluation all call."""

import inspect
import re
import types
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from cot_builder.inspection import tools
from cot_builder.inspection.tools import Operator, ToolError, ToolResult
from cot_builder.storage.images import encode_png
from schemas.trajectory import Observation, ToolCall

_CONTROL = re.compile(r"<\|(\w+)\|>")


class Toolbox:
    """The tools on one image. Every public method is a tool; its docstring is the schema the model sees."""

    def __init__(self, image: np.ndarray, priors: Mapping[tuple[str, str], str]) -> None:
        self._image = image
        self._priors = priors

    def crop(self, region: list[int] | None = None) -> ToolResult:
        """Look at a region of the image, small ones enlarged.

        Args:
            region: Box [x1, y1, x2, y2], integers 0-1000 of the original image. Leave it out to see the most conspicuous foreground region.
        """  # noqa: E501
        return tools.crop(self._image, region)

    def enhance(self, operator: Operator, region: list[int] | None = None) -> ToolResult:
        """Bring out faint texture in a region.

        Args:
            operator: clahe evens out contrast, canny draws edges, residual keeps fine detail only.
            region: Box [x1, y1, x2, y2], integers 0-1000 of the original image. Leave it out for the whole image.
        """
        return tools.enhance(self._image, operator, region)

    def measure(self, points: list[list[int]], mm_per_px: float | None = None) -> ToolResult:
        """Measure distances, angles, relative position and grey levels at reference points.

        Args:
            points: Two to six points [x, y], integers 0-1000 of the original image.
            mm_per_px: Millimetres a pixel, if the scale is known.
        """
        return tools.measure(self._image, points, mm_per_px)

    def prior(self, category: str, view: str = "default") -> ToolResult:
        """Look up what a defect-free part of a category looks like.

        Args:
            category: Category of the part.
            view: Camera or pose.
        """
        return tools.prior(self._priors, category, view)

    def run(self, call: ToolCall) -> ToolResult:
        """Run one call.

        Raises:
            ToolError: the tool is unknown, an argument is missing, unknown or out of range.
        """
        method = _methods(Toolbox).get(call.tool)
        if method is None:
            raise ToolError(f"no tool {call.tool!r}; there are {', '.join(_methods(Toolbox))}")
        try:
            inspect.signature(method).bind(self, **call.arguments)
        except TypeError as error:
            raise ToolError(f"{call.tool}: {error}") from None
        return method(self, **call.arguments)

    def observe(self, call: ToolCall) -> tuple[Observation, bytes | None]:
        """Run one call and record what came back: the observation and, where it shows an image, its PNG bytes.

        A refused call is an observation too: its text begins with ``error:``.
        """
        try:
            result = self.run(call)
        except ToolError as error:
            return Observation(text=sayable(f"error: {error}")), None
        text = sayable(result.text)
        if result.image is None:
            return Observation(text=text), None
        png = encode_png(result.image)
        return Observation(text=text, image_sha256=sha256(png).hexdigest()), png


def tool_schemas() -> list[dict[str, Any]]:
    """The tools as JSON schemas, in the form of OpenAI function tools and of chat templates."""
    return [_function_schema(name, method) for name, method in _methods(Toolbox).items()]


def sayable(text: str) -> str:
    """The text without what a chat cannot hold: halves of characters, and control tokens in plain letters.

    JSON's escapes may hold half a character, which no file or tokenizer takes; ``<|image_pad|>`` would be read as an
    image that is not there, or as a turn's end.
    """
    return _CONTROL.sub(r"<| \1 |>", text.encode(errors="replace").decode())


def _methods(owner: type) -> dict[str, Callable[..., ToolResult]]:
    return {
        name: method
        for name, method in vars(owner).items()
        if inspect.isfunction(method) and get_type_hints(method).get("return") is ToolResult and name != "run"
    }


def _function_schema(name: str, method: Callable[..., ToolResult]) -> dict[str, Any]:
    summary, _, arguments = inspect.getdoc(method).partition("\n\nArgs:\n")  # type: ignore[union-attr]
    described = dict(re.findall(r"^ {4}(\w+): (.+)$", arguments, flags=re.MULTILINE))
    hints = get_type_hints(method)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": summary.strip(),
            "parameters": {
                "type": "object",
                "properties": {
                    p.name: _type_schema(hints[p.name]) | {"description": described[p.name]} for p in parameters
                },
                "required": [p.name for p in parameters if p.default is inspect.Parameter.empty],
            },
        },
    }


def _type_schema(hint: Any) -> dict[str, Any]:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _type_schema(next(option for option in get_args(hint) if option is not type(None))) | {"nullable": True}
    if origin is Literal:
        return {"type": "string", "enum": list(get_args(hint))}
    if origin is list:
        return {"type": "array", "items": _type_schema(get_args(hint)[0])}
    return {"type": {str: "string", int: "integer", float: "number"}[hint]}
