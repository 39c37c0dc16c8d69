"""The tools bound to one image. The teacher, the rollouts and the evaluation call them through the same toolbox."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cot_builder.inspection.tools import TOOLS, ToolError, ToolResult
from cot_builder.storage.images import encode_png, read_pixels
from schemas.trajectory import Observation, ToolCall

if TYPE_CHECKING:
    from PIL.Image import Image

_CONTROL = re.compile(r"<\|(\w+)\|>")


class Toolbox:
    """All registered tools, bound to one image.

    Args:
        image: The inspected image, uint8 (height, width, 3) BGR.
        priors: Normalcy texts by (category, view) for the tool `prior`; none by default.

    Example:
        >>> box = Toolbox.open("part.png", {("bolt", "default"): "A sound bolt has an even thread."})
        >>> box.call("crop", region=[400, 400, 600, 600]).text
    """

    def __init__(self, image: np.ndarray, priors: Mapping[tuple[str, str], str] | None = None) -> None:
        self._image = image
        self._priors = priors or {}

    @classmethod
    def open(
        cls, image: "np.ndarray | bytes | str | Path | Image", priors: Mapping[tuple[str, str], str] | None = None
    ) -> "Toolbox":
        """Create a toolbox for an image file, the bytes of one, a PIL image, or BGR pixels.

        Raises:
            IndusCotError: the file does not exist or is no image.
        """
        return cls(read_pixels(image), priors)

    def call(self, tool: str, **arguments: Any) -> ToolResult:
        """Run a tool by its name. Boxes and points are integers 0-1000 relative to the original image.

        Returns:
            The text for the inspector and, for some tools, an image, uint8 (h, w, 3) BGR or (h, w).

        Raises:
            ToolError: the tool is unknown, an argument is missing, unknown or out of range.
        """
        return self.run(ToolCall.model_construct(tool=tool, arguments=arguments))

    def run(self, call: ToolCall) -> ToolResult:
        """Run one call.

        Raises:
            ToolError: the tool is unknown, an argument is missing, unknown or out of range.
        """
        tool = TOOLS.get(call.tool)
        if tool is None:
            raise ToolError(f"no tool {call.tool!r}; there are {', '.join(TOOLS)}")
        try:
            tool.signature.bind(**call.arguments)
        except TypeError as error:
            raise ToolError(f"{call.tool}: {error}") from None
        context = {"image": self._image, "priors": self._priors}
        return tool.function(**{name: context[name] for name in tool.context}, **call.arguments)

    def observe(self, call: ToolCall) -> tuple[Observation, bytes | None]:
        """Run one call and return its observation, with the PNG bytes of the returned image or None.

        A refused call returns an observation too: its text begins with ``error:``.
        """
        try:
            result = self.run(call)
        except ToolError as error:
            return Observation(text=make_chat_safe(f"error: {error}")), None
        text = make_chat_safe(result.text)
        if result.image is None:
            return Observation(text=text), None
        png = encode_png(result.image)
        return Observation(text=text, image_sha256=sha256(png).hexdigest()), png


def tool_schemas() -> list[dict[str, Any]]:
    """Return the JSON schemas of all tools, in the form of OpenAI function tools and of chat templates."""
    return [tool.schema for tool in TOOLS.values()]


def make_chat_safe(text: str) -> str:
    """Replace lone surrogates, and separate the letters of control tokens from their brackets.

    JSON escapes can contain half of a surrogate pair, which neither files nor tokenizers accept. A control token such
    as ``<|image_pad|>`` would be tokenized as an image that does not exist, or as the end of the turn.
    """
    return _CONTROL.sub(r"<| \1 |>", text.encode(errors="replace").decode())
