"""The decorator that registers a tool, and the table of all tools."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

import numpy as np

from cot_builder.inspection.tools.schema import function_schema

CONTEXT = ("image", "priors")
"""Parameters that the toolbox passes and no model sees: ``image``, the inspected image, uint8 (height, width, 3) BGR as
OpenCV reads it, and ``priors``, the normalcy texts by (category, view)."""
CLAIM = (
    r"(?<!should )(?<!would )(?<!will )(?<!may )"
    r"(?:shows?|reveals?|confirms?|resolves?|draws?|peaks?|is strongest|stays|says|describes)"
)
"""Pattern of verbs with which a thought reports a result, for use in the ``results`` of a tool."""


class ToolError(ValueError):
    """Invalid arguments of a call. The text tells the caller what to change."""


@dataclass(frozen=True)
class ToolResult:
    """Result of a tool: a text and, for some tools, an image, uint8 (h, w, 3) BGR or (h, w)."""

    text: str
    image: np.ndarray | None = None


@dataclass(frozen=True)
class Tool:
    """A registered tool: its function, and properties that the signature does not express."""

    function: Callable[..., ToolResult]
    version: int
    """Version of the toolbox in which the observations or the schema of the tool last changed."""
    mentions: str
    """Pattern of words that mention the tool. A thought with such words needs a call of it by then."""
    results: str
    """Pattern of words that report a result of the tool. A thought with such words needs an earlier call of it."""
    returns_image: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def context(self) -> list[str]:
        """Names of the parameters that the toolbox passes."""
        return [name for name in inspect.signature(self.function).parameters if name in CONTEXT]

    @cached_property
    def signature(self) -> inspect.Signature:
        """Signature with only the parameters that the model fills in, and with resolved types."""
        hints = get_type_hints(self.function)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(self.function).parameters.items()
            if name not in CONTEXT
        ]
        return inspect.Signature(own)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the tool, in the form of OpenAI function tools and of chat templates."""
        return function_schema(self.name, inspect.getdoc(self.function) or "", self.signature)


TOOLS: dict[str, Tool] = {}
"""All tools by name, in the order of their file names."""
Function = TypeVar("Function", bound=Callable[..., ToolResult])


def tool(*, version: int, mentions: str, results: str, returns_image: bool = False) -> Callable[[Function], Function]:
    """Register a function as a tool. Models read its name, its parameters and its docstring.

    The first part of the docstring describes the tool, and ``Args:`` describes every parameter. ``Raises:`` is not
    shown to models. The toolbox passes the parameters named in :data:`CONTEXT`.

    Args:
        version: ``TOOLBOX_VERSION`` plus one, for a new tool and for each change of observations or schema.
        mentions: Regular expression of the words with which a thought mentions the tool.
        results: Regular expression of the words with which a thought reports a result of the tool.
        returns_image: Whether every successful call returns an image.

    Raises:
        TypeError: another tool has the same name, or a parameter has no description or a type that JSON does not have.
    """

    def register(function: Function) -> Function:
        new_tool = Tool(function, version, mentions, results, returns_image)
        if new_tool.name in TOOLS:
            other = TOOLS[new_tool.name].function.__module__
            raise TypeError(f"tool {new_tool.name}: {other} already defines a tool of this name")
        # Build the schema now, so that a missing description raises when the file is imported.
        assert new_tool.schema
        TOOLS[new_tool.name] = new_tool
        return function

    return register
