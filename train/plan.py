"""What a training will take: devices, batch, tokens, memory and steps, said before any weight is loaded."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cot_builder.params import Params, Train
from schemas.errors import IndusCotError

ACTIVATIONS_PER_LAYER = 17
"""Values a token and hidden unit that a layer keeps for the backward pass, without attention scores
(arXiv 2205.05198: 34 bytes at 16 bit)."""
LOGIT_BYTES = 12
"""Of each word of the vocabulary at each token that bears loss: the logit, its 32-bit copy and the gradient."""


@dataclass(frozen=True, kw_only=True)
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
        return "\n".join(f"{name:<16} {text}" for name, text in self._told().items())

    def _told(self) -> Mapping[str, str]:
        return {
            "model": f"{self.model}, {_count(self.parameters)} parameters, {_count(self.trained)} of them trained",
            "devices": f"{self.devices}; {self.processes} process{'es' if self.processes > 1 else ''}"
            + (", weights sharded" if self.sharded else ""),
            "effective batch": f"{self.effective_batch} = {self.processes} processes x {self.batch} a device "
            f"x {self.accumulation} accumulated",
            "trajectories": f"{self.rows}, {self.refused} more refused as too long",
            "tokens": f"{self.mean_tokens:.0f} a trajectory on average, {self.longest} the longest, "
            f"{_count(self.tokens)} in all",
            "steps": str(self.steps),
            "memory a device": f"about {_gib(self.memory)} GiB: weights {_gib(self.weights)}, gradients and "
            f"optimiser {_gib(self.optimiser)}, activations {_gib(self.activations)}",
        }


@dataclass(frozen=True, kw_only=True)
class RolloutPlan(Plan):
    """Figures of reinforcement learning; its rows are prompts, its batches completions."""

    group: int
    completion: int
    """Tokens of a completion with its observations, at most."""
    calls: int
    rollouts: str
    reference: int
    """Bytes of the weights that the KL term holds the policy to."""
    cache: int
    """Bytes of keys and values while the policy writes."""
    gathered: int
    """Bytes of the weights that ZeRO-3 gathers on every device meanwhile."""

    @property
    def tokens(self) -> int:
        """Of the whole training, at most."""
        return round(self.steps * self.effective_batch * (self.mean_tokens + self.completion))

    @property
    def memory(self) -> int:
        """Bytes a device, an estimate; what is written is read back only after the cache is gone."""
        return self.weights + self.reference + self.optimiser + max(self.activations, self.cache + self.gathered)

    def _told(self) -> Mapping[str, str]:
        update = self.effective_batch * (self.mean_tokens + self.completion)
        shared = {name: text for name, text in super()._told().items() if name != "trajectories"}
        return {
            **shared,
            "effective batch": f"{shared['effective batch']}: {self.effective_batch // self.group} prompts "
            f"x {self.group} completions",
            "prompts": f"{self.rows}, {self.refused} more left out as too long",
            "tokens": f"prompt {self.mean_tokens:.0f} on average, {self.longest} the longest; completion at most "
            f"{self.completion}, observations included; at most {_count(update)} an update, {_count(self.tokens)} in "
            "all",
            "rollouts": f"by {self.rollouts}, at most {self.calls + 1} turns",
            "memory a device": f"about {_gib(self.memory)} GiB: weights {_gib(self.weights)}, reference "
            f"{_gib(self.reference)}, gradients and optimiser {_gib(self.optimiser)}, and the larger of activations "
            f"{_gib(self.activations)} and cache {_gib(self.cache)}"
            + (f" with the whole weights gathered to write, {_gib(self.gathered)}" if self.gathered else "")
            + ("" if self.rollouts == "transformers" else "; vLLM's own memory comes on top"),
        }


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
    """The plan of a supervised training.

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
    processes, sizes = world_size(), _sizes(model, train)
    longest = batch * max(taken, default=0)
    return Plan(
        model=train.model,
        **_shared(train, sizes, processes, longest, longest),
        batch=batch,
        accumulation=accumulation,
        rows=len(taken),
        refused=len(lengths) - len(taken),
        longest=max(taken, default=0),
        mean_tokens=_mean(taken),
        steps=steps or updates(len(taken), processes * batch, accumulation, epochs),
    )


def rollout_plan(params: Params, model: str, named: str, lengths: Sequence[int]) -> RolloutPlan:
    """The plan of a reinforcement learning.

    Args:
        params: Of the run; its batch can be cut into groups.
        model: Folder or name whose config.json is read; no weights are.
        named: What to call it.
        lengths: Tokens of each prompt.

    Raises:
        IndusCotError: there are fewer prompts than an update takes.
    """
    train, settings = params.train, params.grpo
    taken = [length for length in lengths if length <= settings.max_prompt]
    processes, sizes = world_size(), _sizes(model, train)
    most = settings.batch * (max(taken, default=0) + settings.max_completion)
    value = _value(train)
    text = sizes.text
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * value
    held, writes = settings.kl and not train.lora_rank, settings.rollouts == "transformers"
    return RolloutPlan(
        model=named,
        **_shared(train, sizes, processes, most, settings.batch * settings.max_completion),
        batch=settings.batch,
        accumulation=settings.accumulation,
        rows=len(taken),
        refused=len(lengths) - len(taken),
        longest=max(taken, default=0),
        mean_tokens=_mean(taken),
        steps=rollout_updates(params, processes, len(taken)),
        group=settings.group,
        completion=settings.max_completion,
        calls=params.draft.max_calls,
        rollouts=settings.rollouts,
        # TRL loads it as the policy is, in 32 bit.
        reference=4 * sizes.parameters // _shards(processes) if held else 0,
        cache=most * cached if writes else 0,
        gathered=value * sizes.parameters if writes and _gathers(processes) else 0,
    )


def updates(rows: int, at_once: int, accumulation: int, epochs: float) -> int:
    """Weight updates that so many epochs take, as transformers' Trainer counts them."""
    return math.ceil(epochs * max(math.ceil(math.ceil(rows / at_once) / accumulation), 1))


def rollout_updates(params: Params, processes: int, rows: int) -> int:
    """Weight updates of a reinforcement learning, as TRL counts them: prompts that fill no update are left over.

    Raises:
        IndusCotError: there are fewer prompts than an update takes.
    """
    settings = params.grpo
    prompts = processes * settings.batch * settings.accumulation // settings.group
    if rows < prompts:
        raise IndusCotError(
            f"grpo: {rows} prompts, and an update takes {prompts} ({processes} processes x grpo.batch "
            f"{settings.batch} x grpo.accumulation {settings.accumulation} / grpo.group {settings.group}): lower "
            "batch or accumulation, raise group, or assemble a larger corpus"
        )
    return settings.steps or math.ceil(settings.epochs * (rows // prompts))


def world_size() -> int:
    """Processes that train together, as their launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class _Sizes(NamedTuple):
    """Parameters, those that are trained, and the language model's configuration."""

    parameters: int
    trained: int
    text: Any


def _shared(train: Train, sizes: _Sizes, processes: int, tokens: int, scored: int) -> dict[str, Any]:
    """What both plans say of model, devices and memory, for so many tokens in a pass, so many of them with logits."""
    value, shards = _value(train), _shards(processes)
    parameters, trained, text = sizes
    kept = text.num_hidden_layers * (1 if train.gradient_checkpointing else ACTIVATIONS_PER_LAYER)
    hidden = tokens * text.hidden_size * value * (kept + ACTIVATIONS_PER_LAYER)
    # Adapters lie beside weights in the computing type; a full fine-tune keeps 32-bit weights, a frozen tower's too.
    frozen = (value if train.lora_rank else 4) * (parameters - trained)
    return {
        "parameters": parameters,
        "trained": trained,
        "devices": _devices(),
        "processes": processes,
        "sharded": shards > 1,
        "weights": (frozen + 4 * trained) // shards,
        "optimiser": (4 + 8) * trained // shards,
        "activations": hidden + scored * text.vocab_size * LOGIT_BYTES,
    }


def _sizes(model: str, train: Train) -> _Sizes:
    """From a model's config alone."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from train.model import lora, not_there, vision

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        with torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise not_there(model, error) from error
    parameters = sum(weight.numel() for weight in empty.parameters())
    vision(empty, model).requires_grad_(not train.freeze_vision)
    trained = sum(weight.numel() for weight in empty.parameters() if weight.requires_grad)
    if train.lora_rank:
        from peft import get_peft_model

        with torch.device("meta"):
            adapted = get_peft_model(empty, lora(train.lora_rank))
        trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
        parameters += trained
    return _Sizes(parameters, trained, config.get_text_config())


def _value(train: Train) -> int:
    return 2 if train.dtype == "bfloat16" else 4


def _shards(processes: int) -> int:
    # Set by `accelerate launch` from its configuration file.
    sharded = any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"))
    return processes if sharded else 1


def _gathers(processes: int) -> bool:
    # FSDP2 gathers a layer at a time, ZeRO-3 all of them before the first word.
    return processes > 1 and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    names: Any = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / max(len(lengths), 1)


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
