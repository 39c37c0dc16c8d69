"""What a training will take: devices, batch, tokens, memory and steps, said before any weight is loaded."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cot_builder.params import Train
from train import torchvision_ops

ACTIVATIONS_PER_LAYER = 17
"""Values a token and hidden unit that a layer keeps for the backward pass, without attention scores
(arXiv 2205.05198: 34 bytes at 16 bit)."""


@dataclass(frozen=True)
class Plan:
    """Figures of a training; memory in bytes a device, tokens with those of images."""

    model: str
    parameters: int
    trained: int
    devices: str
    processes: int
    sharded: bool
    batch: int
    accumulation: int
    rows: int
    refused: int
    longest: int
    mean_tokens: float
    steps: int
    weights: int
    optimiser: int
    activations: int

    @property
    def effective_batch(self) -> int:
        """Trajectories a weight update."""
        return self.processes * self.batch * self.accumulation

    @property
    def tokens(self) -> int:
        """Of the whole training."""
        return round(self.steps * self.effective_batch * self.mean_tokens)

    @property
    def memory(self) -> int:
        """Bytes a device, an estimate."""
        return self.weights + self.optimiser + self.activations

    def __str__(self) -> str:
        gib = 2**30
        rows = {
            "model": f"{self.model}, {_count(self.parameters)} parameters, {_count(self.trained)} of them trained",
            "devices": f"{self.devices}; {self.processes} process{'es' if self.processes > 1 else ''}"
            + (", weights sharded" if self.sharded else ""),
            "effective batch": f"{self.effective_batch} = {self.processes} processes x {self.batch} a device "
            f"x {self.accumulation} accumulated",
            "trajectories": f"{self.rows}, {self.refused} more refused as too long",
            "tokens": f"{self.mean_tokens:.0f} a trajectory on average, {self.longest} the longest, "
            f"{_count(self.tokens)} in all",
            "steps": str(self.steps),
            "memory a device": f"about {self.memory / gib:.2f} GiB: weights {self.weights / gib:.2f}, gradients and "
            f"optimiser {self.optimiser / gib:.2f}, activations {self.activations / gib:.2f}",
        }
        return "\n".join(f"{name:<16} {text}" for name, text in rows.items())


def plan(
    train: Train,
    model: str,
    lengths: Sequence[int],
    *,
    batch: int,
    accumulation: int,
    epochs: float,
    steps: int | None,
) -> Plan:
    """The plan of a training.

    Args:
        train: What is trained.
        model: Folder or name whose config.json is read; no weights are.
        lengths: Tokens of each trajectory.
        batch: Trajectories a device holds at once.
        accumulation: Batches an update.
        epochs: Passes over the trajectories.
        steps: Updates, if they are given instead.
    """
    taken = [length for length in lengths if length <= train.max_tokens]
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    shards = processes if _is_sharded() else 1
    parameters, trained, layers, hidden = _sizes(model, train.lora_rank)
    value = 2 if train.dtype == "bfloat16" else 4
    held = batch * max(taken, default=0) * hidden * value
    kept = layers if train.gradient_checkpointing else layers * ACTIVATIONS_PER_LAYER
    # Adapters lie beside weights in the computing type; a full fine-tune keeps 32-bit weights.
    frozen = value * (parameters - trained) if train.lora_rank else 0
    return Plan(
        model=train.model,
        parameters=parameters,
        trained=trained,
        devices=_devices(),
        processes=processes,
        sharded=shards > 1,
        batch=batch,
        accumulation=accumulation,
        rows=len(taken),
        refused=len(lengths) - len(taken),
        longest=max(taken, default=0),
        mean_tokens=sum(taken) / max(len(taken), 1),
        steps=steps or updates(len(taken), processes * batch, accumulation, epochs),
        weights=(frozen + 4 * trained) // shards,
        optimiser=(4 + 8) * trained // shards,
        activations=held * (kept + ACTIVATIONS_PER_LAYER),
    )


def updates(rows: int, at_once: int, accumulation: int, epochs: float) -> int:
    """Weight updates that so many epochs take, as transformers' Trainer counts them."""
    return math.ceil(epochs * max(math.ceil(math.ceil(rows / at_once) / accumulation), 1))


def _sizes(model: str, rank: int) -> tuple[int, int, int, int]:
    """Parameters, trained ones, layers and hidden units of a model, from its config alone."""
    torchvision_ops.declare()
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from train.model import lora, not_there

    try:
        config = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(config)
    except (OSError, ValueError) as error:
        raise not_there(model, error) from error
    parameters = trained = sum(weight.numel() for weight in empty.parameters())
    if rank:
        from peft import get_peft_model

        with torch.device("meta"):
            adapted = get_peft_model(empty, lora(rank))
        trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
        parameters += trained
    text = config.get_text_config()
    return parameters, trained, text.num_hidden_layers, text.hidden_size


def _is_sharded() -> bool:
    # Set by `accelerate launch` from its configuration file.
    return any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"))


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    names: Any = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
