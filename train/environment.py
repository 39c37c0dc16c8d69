"""Offers the inspection tools as an environment of TRL: ``GRPOTrainer(environment_factory=…)``."""

import inspect
import io
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import TOOLS, Tool
from schemas.trajectory import ToolCall

Blocks = list[dict[str, Any]]
"""Content of a tool turn: the image, if the tool returned one, as PIL; then the text."""


class InspectionEnvironment:
    """Toolbox on the image of one rollout.

    Every public method except ``reset`` is a tool; they are generated at the end of this module. A refused call
    returns an observation that begins with ``error:``. TRL reuses an instance for further rollouts, so ``reset`` drops
    the state of the previous one.
    """

    def __init__(self, priors: Mapping[tuple[str, str], str]) -> None:
        self._priors = priors
        self._toolbox: Toolbox | None = None

    def reset(self, *, image: Image.Image, **_: Any) -> None:
        """Start an inspection. Only the image of the row is kept, so that no truth can leak.

        Args:
            image: The inspected image, RGB.
        """
        self._toolbox = Toolbox.open(image, self._priors)

    def _observe(self, call: ToolCall) -> Blocks:
        assert self._toolbox is not None, "call reset first"
        observation, png = self._toolbox.observe(call)
        shown = [{"type": "image", "image": Image.open(io.BytesIO(png))}] if png else []
        return [*shown, {"type": "text", "text": observation.text}]


def _make_method(tool: Tool) -> Callable[..., Blocks]:
    """Return a method that calls ``tool``, with the signature and docstring from which TRL derives the schema."""

    def call(self: InspectionEnvironment, /, **arguments: Any) -> Blocks:
        return self._observe(ToolCall.model_construct(tool=tool.name, arguments=arguments))

    call.__name__ = tool.name
    call.__qualname__ = f"{InspectionEnvironment.__name__}.{tool.name}"
    call.__doc__ = tool.function.__doc__
    # Omit the return type: transformers would add it to the schema, and the corpus was rendered without it.
    parameters = tool.signature.parameters
    call.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    call.__signature__ = inspect.Signature([itself, *parameters.values()])  # type: ignore[attr-defined]
    return call


for _tool in TOOLS.values():
    setattr(InspectionEnvironment, _tool.name, _make_method(_tool))
