"""The inspection tools as an environment that TRL drives: ``GRPOTrainer(environment_factory=…)``."""

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cot_builder.inspection.toolbox import Toolbox
from cot_builder.inspection.tools import ToolResult
from schemas.trajectory import ToolCall

Blocks = list[dict[str, Any]]
"""Content of a tool turn: the image where there is one, as PIL, then the text."""


def _tool(method: Callable[..., ToolResult]) -> Callable[..., Blocks]:
    """A tool of the toolbox under its own name, signature and docstring, which are the schema the policy reads."""

    @functools.wraps(method)
    def call(self: "InspectionEnvironment", /, **arguments: Any) -> Blocks:
        return self._observe(ToolCall.model_construct(tool=method.__name__, arguments=arguments))

    # transformers would describe what a tool returns, and the corpus was rendered without that.
    call.__annotations__ = {name: hint for name, hint in method.__annotations__.items() if name != "return"}
    return call


class InspectionEnvironment:
    """The toolbox on the image of one rollout; every public method but ``reset`` is a tool.

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
        self._toolbox = Toolbox(cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR), self._priors)

    def _observe(self, call: ToolCall) -> Blocks:
        assert self._toolbox is not None, "reset comes first"
        observation, png = self._toolbox.observe(call)
        shown = [{"type": "image", "image": Image.open(io.BytesIO(png))}] if png else []
        return [*shown, {"type": "text", "text": observation.text}]

    crop = _tool(Toolbox.crop)
    enhance = _tool(Toolbox.enhance)
    measure = _tool(Toolbox.measure)
    prior = _tool(Toolbox.prior)
