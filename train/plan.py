"""Estimates what a training takes (devices, batch, tokens, memory and steps) before any weight is loaded."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cot_builder.params import Params, Train
from schemas.errors import IndusCotError

ACTIVATIONS_PER_LAYER = 17
"""Values per token and hidden unit that a layer keeps for the backward pass, without attention scores
(arXiv 2205.05198: 34 bytes at 16 bit)."""
LOGIT_BYTES = 12
"""Bytes per vocabulary entry and token that bears loss: the logit, its 32-bit copy and the gradient."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Figures of a training; memory is in bytes per device, token counts include image tokens."""

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
        """Trajectories per weight update."""
        return self.processes * self.batch * self.accumulation

    @property
    def tokens(self) -> int:
        """Tokens of the whole training."""
        return round(self.steps * self.effective_batch * self.mean_tokens)

    @property
    def memory(self) -> int:
        """Estimated bytes per device."""
        return self.weights + self.optimiser + self.activations

    def __str__(self) -> str:
        return "\n".join(f"{name:<16} {text}" for name, text in self._describe().items())

    def _describe(self) -> Mapping[str, str]:
        return {
            "model": f"{self.model}, {_format_count(self.parameters)} parameters, "
            f"{_format_count(self.trained)} of them trained",
            "devices": f"{self.devices}; {self.processes} process{'es' if self.processes > 1 else ''}"
            + (", weights sharded" if self.sharded else ""),
            "effective batch": f"{self.effective_batch} = {self.processes} processes x {self.batch} a device "
            f"x {self.accumulation} accumulated",
            "trajectories": f"{self.rows}, {self.refused} more refused as too long",
            "tokens": f"{self.mean_tokens:.0f} per trajectory on average, {self.longest} in the longest, "
            f"{_format_count(self.tokens)} in all",
            "steps": str(self.steps),
            "memory a device": f"about {_to_gib(self.memory)} GiB: weights {_to_gib(self.weights)}, gradients and "
            f"optimiser {_to_gib(self.optimiser)}, activations {_to_gib(self.activations)}",
        }


@dataclass(frozen=True, kw_only=True)
class RolloutPlan(Plan):
    """Figures of reinforcement learning; its rows are prompts, and its batches hold completions."""

    group: int
    completion: int
    """Token limit of a completion with its observations."""
    calls: int
    rollouts: str
    reference: int
    """Bytes of the reference weights of the KL term."""
    cache: int
    """Bytes of the key-value cache during generation."""
    gathered: int
    """Bytes of the weights that ZeRO-3 gathers on every device during generation."""

    @property
    def tokens(self) -> int:
        """Upper bound on the tokens of the whole training."""
        return round(self.steps * self.effective_batch * (self.mean_tokens + self.completion))

    @property
    def memory(self) -> int:
        """Estimated bytes per device; the backward pass starts after the cache is freed, so the larger one counts."""
        return self.weights + self.reference + self.optimiser + max(self.activations, self.cache + self.gathered)

    def _describe(self) -> Mapping[str, str]:
        update = self.effective_batch * (self.mean_tokens + self.completion)
        shared = {name: text for name, text in super()._describe().items() if name != "trajectories"}
        return {
            **shared,
            "effective batch": f"{shared['effective batch']}: {self.effective_batch // self.group} prompts "
            f"x {self.group} completions",
            "prompts": f"{self.rows}, {self.refused} more left out as too long",
            "tokens": f"prompt {self.mean_tokens:.0f} on average, {self.longest} the longest; completion at most "
            f"{self.completion}, observations included; at most {_format_count(update)} an update, "
            f"{_format_count(self.tokens)} in all",
            "rollouts": f"by {self.rollouts}, at most {self.calls + 1} turns",
            "memory a device": f"about {_to_gib(self.memory)} GiB: weights {_to_gib(self.weights)}, reference "
            f"{_to_gib(self.reference)}, gradients and optimiser {_to_gib(self.optimiser)}, and the larger of "
            f"activations {_to_gib(self.activations)} and cache {_to_gib(self.cache)}"
            + (f" with all weights gathered to generate, {_to_gib(self.gathered)}" if self.gathered else "")
            + ("" if self.rollouts == "transformers" else "; vLLM needs further memory of its own"),
        }


def plan_training(
    train: Train,
    model: str,
    lengths: Sequence[int],
    *,
    batch: int,
    accumulation: int,
    epochs: float,
    steps: int | None,
) -> Plan:
    """Plan a supervised training.

    Args:
        train: Settings of the training.
        model: Folder or name of the model; only its config.json is read.
        lengths: Tokens of each trajectory.
        batch: Trajectories per batch and device.
        accumulation: Batches per update.
        epochs: Passes over the trajectories.
        steps: Number of updates; if given, it overrides ``epochs``.
    """
    taken = [length for length in lengths if length <= train.max_tokens]
    processes, sizes = world_size(), _measure_model(model, train)
    longest = batch * max(taken, default=0)
    return Plan(
        model=train.model,
        **_shared_figures(train, sizes, processes, longest, longest),
        batch=batch,
        accumulation=accumulation,
        rows=len(taken),
        refused=len(lengths) - len(taken),
        longest=max(taken, default=0),
        mean_tokens=_mean(taken),
        steps=steps or count_updates(len(taken), processes * batch, accumulation, epochs),
    )


def plan_rollouts(params: Params, model: str, named: str, lengths: Sequence[int]) -> RolloutPlan:
    """Plan a reinforcement learning.

    Args:
        params: Parameters of the run; its batch must be a multiple of the group.
        model: Folder or name of the model; only its config.json is read.
        named: Name of the model in the plan.
        lengths: Tokens of each prompt.

    Raises:
        IndusCotError: there are fewer prompts than an update takes.
    """
    train, settings = params.train, params.grpo
    taken = [length for length in lengths if length <= settings.max_prompt]
    processes, sizes = world_size(), _measure_model(model, train)
    most = settings.batch * (max(taken, default=0) + settings.max_completion)
    value = _bytes_per_value(train)
    text = sizes.text
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * value
    held, writes = settings.kl and not train.lora_rank, settings.rollouts == "transformers"
    return RolloutPlan(
        model=named,
        **_shared_figures(train, sizes, processes, most, settings.batch * settings.max_completion),
        batch=settings.batch,
        accumulation=settings.accumulation,
        rows=len(taken),
        refused=len(lengths) - len(taken),
        longest=max(taken, default=0),
        mean_tokens=_mean(taken),
        steps=count_rollout_updates(params, processes, len(taken)),
        group=settings.group,
        completion=settings.max_completion,
        calls=params.draft.max_calls,
        rollouts=settings.rollouts,
        # TRL loads the reference model in 32 bit, like the policy.
        reference=4 * sizes.parameters // _count_shards(processes) if held else 0,
        cache=most * cached if writes else 0,
        gathered=value * sizes.parameters if writes and _gathers_all_weights(processes) else 0,
    )


def count_updates(rows: int, at_once: int, accumulation: int, epochs: float) -> int:
    """Count the weight updates of ``epochs`` epochs, as transformers' Trainer counts them."""
    return math.ceil(epochs * max(math.ceil(math.ceil(rows / at_once) / accumulation), 1))


def count_rollout_updates(params: Params, processes: int, rows: int) -> int:
    """Count the weight updates of a reinforcement learning, as TRL counts them: a last incomplete update is dropped.

    Raises:
        IndusCotError: there are fewer prompts than an update takes.
    """
    settings = params.grpo
    prompts = processes * settings.batch * settings.accumulation // settings.group
    if rows < prompts:
        raise IndusCotError(
            f"grpo: there are {rows} prompts, but an update takes {prompts} ({processes} processes x grpo.batch "
            f"{settings.batch} x grpo.accumulation {settings.accumulation} / grpo.group {settings.group}): lower "
            "batch or accumulation, raise group, or assemble a larger corpus"
        )
    return settings.steps or math.ceil(settings.epochs * (rows // prompts))


def world_size() -> int:
    """Return the number of processes that train together, from the launcher's environment variable."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class _ModelSizes(NamedTuple):
    """Number of parameters, number of trained parameters, and the configuration of the language model."""

    parameters: int
    trained: int
    text: Any


def _shared_figures(train: Train, sizes: _ModelSizes, processes: int, tokens: int, scored: int) -> dict[str, Any]:
    """Return the figures that both plans share.

    Args:
        train: Settings of the training.
        sizes: Sizes of the model.
        processes: Number of processes.
        tokens: Tokens per pass.
        scored: Tokens per pass whose logits are computed.
    """
    value, shards = _bytes_per_value(train), _count_shards(processes)
    parameters, trained, text = sizes
    kept = text.num_hidden_layers * (1 if train.gradient_checkpointing else ACTIVATIONS_PER_LAYER)
    hidden = tokens * text.hidden_size * value * (kept + ACTIVATIONS_PER_LAYER)
    # With adapters, frozen weights are in train.dtype. A full fine-tune keeps all weights in 32 bit, frozen ones too.
    frozen = (value if train.lora_rank else 4) * (parameters - trained)
    return {
        "parameters": parameters,
        "trained": trained,
        "devices": _describe_devices(),
        "processes": processes,
        "sharded": shards > 1,
        "weights": (frozen + 4 * trained) // shards,
        "optimiser": (4 + 8) * trained // shards,
        "activations": hidden + scored * text.vocab_size * LOGIT_BYTES,
    }


def _measure_model(model: str, train: Train) -> _ModelSizes:
    """Measure a model from its config.json only."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from train.model import get_vision_tower, make_load_error, make_lora_config

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        with torch.device("meta"):
            empty = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise make_load_error(model, error) from error
    parameters = sum(weight.numel() for weight in empty.parameters())
    get_vision_tower(empty, model).requires_grad_(not train.freeze_vision)
    trained = sum(weight.numel() for weight in empty.parameters() if weight.requires_grad)
    if train.lora_rank:
        from peft import get_peft_model

        with torch.device("meta"):
            adapted = get_peft_model(empty, make_lora_config(train.lora_rank))
        trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
        parameters += trained
    return _ModelSizes(parameters, trained, config.get_text_config())


def _bytes_per_value(train: Train) -> int:
    return 2 if train.dtype == "bfloat16" else 4


def _count_shards(processes: int) -> int:
    # `accelerate launch` sets these variables from its configuration file.
    sharded = any(os.environ.get(name) == "true" for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"))
    return processes if sharded else 1


def _gathers_all_weights(processes: int) -> bool:
    # FSDP2 gathers one layer at a time. ZeRO-3 gathers all layers before it generates the first token.
    return processes > 1 and os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"


def _describe_devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"CPU, {torch.get_num_threads()} threads"
    names: Any = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / max(len(lengths), 1)


def _to_gib(size: int) -> str:
    return f"{size / 2**30:.2f}"


def _format_count(number: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:.0f}"
