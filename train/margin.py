"""Measures the policy's confidence in a verdict (arXiv 2605.20682): ``m = log p(Yes | X) - log p(No | X)``.

It is measured at the first token after ``</think>``, where the policy decides. In the trained order, a Yes begins with
``<location>`` there and a No with ``<answer>``. At the word itself nothing is left to decide: after ``</type>`` it is
always Yes, after ``</think><answer>`` always No. Forcing an ``<answer>`` and comparing the two words would measure this
habit of the grammar and not the image. So the probabilities sum over all ways to write each verdict. The boxes and the
type of a Yes do not change its answer and are summed out::

    p(Yes | X) = p(<location> | X, probe) + p(<answer>Yes | X, probe)
    p(No  | X) = p(<answer>No | X, probe)

A policy that has learned the grammar decides in the first token, one that has not in the word; both are measured.
The probe is an empty thought. It replaces the policy's own thought on both sides of a comparison: that thought
announces the verdict, and with it every call would seem to raise the confidence.

The token ids come from encoding the tags as the policy writes them. Qwen's tokenizer has a single token ``>No`` and
none for ``>Yes``, so after a forced ``<answer>`` a plain No would be a token that the policy never writes there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from cot_builder.inspection.rendering import Message
from cot_builder.inspection.toolbox import tool_schemas
from schemas.errors import IndusCotError

PROBE = "<think></think>"


@dataclass(frozen=True)
class VerdictTokens:
    """Token ids of each way to a verdict after the probe, each cut where it is unambiguous."""

    location: tuple[int, ...]
    yes: tuple[int, ...]
    no: tuple[int, ...]

    @property
    def shared_tokens(self) -> tuple[int, ...]:
        """The longest way without its last token; every way starts with these tokens, up to its own last one.

        A single pass over them gives the probability of every token of every way.
        """
        return max(self.location, self.yes, self.no, key=len)[:-1]


def find_verdict_tokens(processor: Any) -> VerdictTokens:
    """Return the token ids of the ways to a verdict.

    Raises:
        IndusCotError: after their common prefix, both Yes and No take more than one token, so a single forward pass
            cannot measure their probabilities.
    """

    def ids(text: str) -> list[int]:
        return processor.tokenizer.encode(text, add_special_tokens=False)

    probe = ids(PROBE)
    every = {name: ids(PROBE + text) for name, text in _TAGS.items()}
    if any(found[: len(probe)] != probe for found in every.values()):
        raise IndusCotError(f"the tokenizer joins {PROBE!r} with what follows; make </think> a token of its own")
    location, yes, no = (tuple(found[len(probe) :]) for found in every.values())
    location = location[: max(_common_length(location, yes), _common_length(location, no)) + 1]
    parted = _common_length(yes, no)
    if min(len(yes), len(no)) != parted + 1:
        raise IndusCotError(
            "the tokenizer writes both Yes and No in an <answer> as several tokens, and the confidence of a verdict is "
            "measured in one pass. Use a tokenizer that has one of them as a single token there"
        )
    found = VerdictTokens(location, yes, no)
    assert all(way[:-1] == found.shared_tokens[: len(way) - 1] for way in (location, yes, no))
    return found


_TAGS = {"location": "<location>", "yes": "<answer>Yes", "no": "<answer>No"}


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def cut_after_observation(prompt: Sequence[Message], completion: Sequence[Message]) -> list[Message]:
    """Return the prompt and the completion up to its last observation; only the prompt if there is no observation."""
    seen = max((number for number, message in enumerate(completion, 1) if message["role"] == "tool"), default=0)
    return [*prompt, *completion[:seen]]


def measure_margins(
    model: Any,
    processor: Any,
    chats: Sequence[Sequence[Message]],
    at_once: int,
    tools: Sequence[dict[str, Any]] | None = (),
) -> list[float]:
    """Measure ``log p(Yes) - log p(No)`` after each chat, without gradients.

    The model runs exactly ``ceil(len(chats) / at_once)`` times: sharded models need equally many passes on ranks with
    equally many chats.

    Args:
        model: The policy, as the trainer holds it; its train or eval mode is restored.
        processor: Its processor.
        chats: Messages with their images in place (PIL), ending before the assistant's turn.
        at_once: Chats per pass; bounds the memory.
        tools: Schemas of the tools in the prompt; None for a prompt without tools. The default is all tools.

    Raises:
        IndusCotError: see :func:`find_verdict_tokens`.
    """
    import torch

    found = find_verdict_tokens(processor)
    schemas = tool_schemas() if tools == () else tools
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return [
                margin
                for start in range(0, len(chats), at_once)
                for margin in _measure_batch(model, processor, chats[start : start + at_once], found, schemas)
            ]
    finally:
        model.train(training)


def _measure_batch(
    model: Any,
    processor: Any,
    chats: Sequence[Sequence[Message]],
    found: VerdictTokens,
    tools: Sequence[dict[str, Any]] | None,
) -> list[float]:
    import torch
    from trl.data_utils import prepare_multimodal_messages

    filled = [prepare_multimodal_messages(list(chat)) for chat in chats]
    texts = [
        processor.apply_chat_template(chat, tools=tools, add_generation_prompt=True, tokenize=False) + PROBE
        for chat in filled
    ]
    images = [
        [part["image"] for message in chat for part in message.get("content") or () if part["type"] == "image"]
        for chat in filled
    ]
    inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
    rows, tail = len(chats), torch.tensor([found.shared_tokens], dtype=torch.long)
    for name, filling in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], filling.expand(rows, -1).to(inputs[name].dtype)], dim=1)
    inputs = inputs.to(next(model.parameters()).device)
    # Logits at the token before each of the shared tokens, and at the last of them.
    logits = model(**inputs, logits_to_keep=len(found.shared_tokens) + 1).logits.float().log_softmax(-1)

    def of(way: tuple[int, ...]) -> Any:
        return sum(logits[:, place, token] for place, token in enumerate(way))

    return (torch.logaddexp(of(found.location), of(found.yes)) - of(found.no)).tolist()


def margin_gain(answer: str, before: float, after: float) -> float:
    """Return the rise of the margin of ``answer`` over the other answer, in nats; NaN if a margin is NaN."""
    rise = after - before
    return rise if answer == "Yes" else -rise if not math.isnan(rise) else math.nan
