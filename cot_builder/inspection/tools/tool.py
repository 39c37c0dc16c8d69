"""A tool: its function, the words that speak of it, and the table of all tools."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar, get_type_hints

import numpy as np

from cot_builder.inspection.tools.schema import function_schema

CONTEXT = ("image", "priors")
"""Parameters that the toolbox fills in and no model sees: ``image``, the inspected image, uint8 (height, width, 3) BGR
as OpenCV reads it; ``priors``, the normalcy texts by (category, view)."""
CLAIM = (
    r"(?<!should )(?<!would )(?<!will )(?<!may )"
    r"(?:shows?|reveals?|confirms?|resolves?|draws?|peaks?|is strongest|stays|says|describes)"
)
"""Verbs with which a thought reports a result; for the ``results`` of a tool."""


class ToolError(ValueError):
    """The caller's arguments do not fit; the text tells the caller what to change."""


@dataclass(frozen=True)
class ToolResult:
    """What a tool returns: a text, and where it shows something an image, uint8 (h, w, 3) BGR or (h, w)."""

    text: str
    image: np.ndarray | None = None


@dataclass(frozen=True)
class Tool:
    """One tool: a function, and what its signature cannot say."""

    function: Callable[..., ToolResult]
    version: int
    """Version of the toolbox in which its observations or its schema last changed."""
    mentions: str
    """Pattern of the words with which a thought speaks of it, which needs a call by then."""
    results: str
    """Pattern of the words that report what it returned, which needs an earlier call."""
    returns_image: bool

    @property
    def name(self) -> str:
        return self.function.__name__

    @cached_property
    def context(self) -> list[str]:
        """Names of the parameters that the toolbox fills in."""
        return [name for name in inspect.signature(self.function).parameters if name in CONTEXT]

    @cached_property
    def signature(self) -> inspect.Signature:
        """Of the parameters that the model fills in, with resolved types."""
        hints = get_type_hints(self.function)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(self.function).parameters.items()
            if name not in CONTEXT
        ]
        return inspect.Signature(own)

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema in the form of OpenAI function tools and of chat templates."""
        return function_schema(self.name, inspect.getdoc(self.function) or "", self.signature)


TOOLS: dict[str, Tool] = {}
"""Every tool by its name, in the order of the files' names."""
Function = TypeVar("Function", bound=Callable[..., ToolResult])


def tool(*, version: int, mentions: str, results: str, returns_image: bool = False) -> Callable[[Function], Function]:
    """Make a function a tool: it is offered under its own name, signature and docstring, which a model reads.

    The docstring's first part describes the tool, its ``Args:`` every parameter; ``Raises:`` is not shown. Parameters
    named as in :data:`CONTEXT` are filled in by the toolbox.

    Args:
        version: One more than ``TOOLBOX_VERSION``, for a new tool and for each change of observations or schema.
        mentions: Regular expression of the words with which a thought speaks of the tool.
        results: Regular expression of the words with which a thought reports what it returned.
        returns_image: Whether every call that succeeds returns an image.

    Raises:
        TypeError: another tool has that name; a parameter has no description or a type that JSON lacks.
    """

    def register(function: Function) -> Function:
        made = Tool(function, version, mentions, results, returns_image)
        if made.name in TOOLS:
            raise TypeError(f"tool {made.name}: {TOOLS[made.name].function.__module__} has one of that name already")
        # Checked here, so that a missing description is found when the file is imported.
        assert made.schema
        TOOLS[made.name] = made
        return function

    return register
