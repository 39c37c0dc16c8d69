"""The inspection tools as an environment that TRL drives: ``GRPOTrainer(environment_factory=…)``."""

import inspect
import io
from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import TOOLS, Tool
from schemas.trajectory import ToolCall

Blocks = list[dict[str, Any]]
"""Content of a tool turn: the image where there is one, as PIL, then the text."""


class InspectionEnvironment:
    """The toolbox on the image of one rollout; every public method but ``reset`` is a tool, made from the table below.

    A refused call is an observation that begins with ``error:``. TRL runs one instance after another rollout's, so
    ``reset`` leaves nothing of the last one behind.
    """

    def __init__(self, priors: Mapping[tuple[str, str], str]) -> None:
        self._priors = priors
        self._toolbox: Toolbox | None = None

    def reset(self, *, image: Image.Image, **_: Any) -> None:
        """Begin an inspection; of the row nothing but its image is kept.

        Args:
            image: The inspected image, RGB.
        """
        self._toolbox = Toolbox.open(image, self._priors)

    def _observe(self, call: ToolCall) -> Blocks:
        assert self._toolbox is not None, "reset comes first"
        observation, png = self._toolbox.observe(call)
        shown = [{"type": "image", "image": Image.open(io.BytesIO(png))}] if png else []
        return [*shown, {"type": "text", "text": observation.text}]


def _method(tool: Tool) -> Callable[..., Blocks]:
    """A tool as a method of the environment, with the signature and docstring from which TRL makes its schema."""

    def call(self: InspectionEnvironment, /, **arguments: Any) -> Blocks:
        return self._observe(ToolCall.model_construct(tool=tool.name, arguments=arguments))

    call.__name__ = tool.name
    call.__qualname__ = f"{InspectionEnvironment.__name__}.{tool.name}"
    call.__doc__ = tool.function.__doc__
    # Without a return type: transformers would describe what a tool returns, and the corpus was rendered without that.
    parameters = tool.signature.parameters
    call.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    call.__signature__ = inspect.Signature([itself, *parameters.values()])  # type: ignore[attr-defined]
    return call


for _tool in TOOLS.values():
    setattr(InspectionEnvironment, _tool.name, _method(_tool))
