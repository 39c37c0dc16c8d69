"""Handles the processes that train together."""

import os
from typing import Any

from schemas.errors import IndusCotError


def get_state() -> Any:
    """Return the state of this process from `accelerate`; without a GPU the processes communicate by gloo.

    Always get the state here. The first call decides, and without ``cpu=True`` on a machine without a GPU,
    `accelerate` treats each process as the only one.
    """
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def check_launch(stage: str) -> None:
    """Refuse to train in a single process if several GPUs are visible.

    Raises:
        IndusCotError: no launcher started the processes; the message says how to start them.
    """
    import torch

    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        raise IndusCotError(
            f"{stage}: {torch.cuda.device_count()} GPUs are visible, but only one process was started: train on all "
            "with "
            "`accelerate launch --config_file train/configs/zero3.yaml $(command -v indus-cot) --profile paper "
            f"{stage}` (train/configs/README.md has others), or on one with CUDA_VISIBLE_DEVICES=0"
        )
