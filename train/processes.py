"""The processes that train together."""

import os
from typing import Any

from schemas.errors import IndusCotError


def state() -> Any:
    """This process among them, as `accelerate` knows it; on a machine without a GPU they talk by gloo.

    Whoever asks first decides: asked plainly there, `accelerate` takes each of several processes for the only one.
    """
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def check_launch(stage: str) -> None:
    """Refuse to train on several GPUs that no launcher has shared out.

    Raises:
        IndusCotError: nobody has; says how to.
    """
    import torch

    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        raise IndusCotError(
            f"{stage}: {torch.cuda.device_count()} GPUs are visible and one process was started: train on all with "
            "`accelerate launch --config_file train/configs/zero3.yaml $(command -v indus-cot) --profile paper "
            f"{stage}` (train/configs/README.md has others), or on one with CUDA_VISIBLE_DEVICES=0"
        )
