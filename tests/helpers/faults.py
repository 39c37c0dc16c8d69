"""What goes wrong inside a model while it is trained, at the place where it really does."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest


def before_a_pass(patch: pytest.MonkeyPatch, happens: Callable[[int, dict[str, Any]], None]) -> None:
    """Call ``happens`` with the number of each forward pass that is trained on, from 1, and with its inputs."""
    import torch

    # Not the model around it: TRL gives that one a forward pass of its own.
    from transformers import Qwen3VLModel as Model

    forward, passes = Model.forward, 0

    @wraps(forward)
    def watched(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal passes
        if torch.is_grad_enabled():
            passes += 1
            happens(passes, options)
        return forward(self, *arguments, **options)

    patch.setattr(Model, "forward", watched)


def no_memory(number: int, inputs: dict[str, Any]) -> None:
    """Ask PyTorch for 4 PB."""
    import torch

    torch.empty(10**15)


def not_a_number(at: int) -> Callable[[int, dict[str, Any]], None]:
    """Spoil the images of a pass, and with them its loss."""

    def spoil(number: int, inputs: dict[str, Any]) -> None:
        if number == at:
            inputs["pixel_values"] = inputs["pixel_values"] * float("nan")

    return spoil
