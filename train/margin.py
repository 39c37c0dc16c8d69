"""The policy's confidence in a verdict (arXiv 2605.20682): ``m = log p(Yes | X) - log p(No | X)``.

It is read at the decision, the first token after ``</think>``. In the order that is trained, a Yes begins with
``<location>`` there and a No with ``<answer>``; once the word itself is due, nothing is left to decide: after
``</type>`` it is always Yes, after ``</think><answer>`` always No. Forcing an ``<answer>`` and comparing the two
words would measure that habit of the grammar and not the image. So the probabilities are those of all ways to each
verdict, the boxes and the type of a Yes summed out since they do not change it::

    p(Yes | X) = p(<location> | X, probe) + p(<answer>Yes | X, probe)
    p(No  | X) = p(<answer>No | X, probe)

A policy that has learned the grammar decides in the first token, one that has not in the word; both are measured.
The probe is an empty thought. The thought the policy wrote itself is left out on both sides: it announces the
verdict, and with it any call at all would seem to have raised the confidence.

The tokens are those that the tokenizer makes of the tags, as the policy writes them: that of Qwen has a single token
``>No`` and none for ``>Yes``, so that after a forced ``<answer>`` a plain No would be a token it never writes there.
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
class Ways:
    """Token ids that follow the probe, each up to where it can be nothing else."""

    location: tuple[int, ...]
    yes: tuple[int, ...]
    no: tuple[int, ...]

    @property
    def given(self) -> tuple[int, ...]:
        """What is read to see the probability of every token of every way: the longest, without its last token."""
        return max(self.location, self.yes, self.no, key=len)[:-1]


def ways(processor: Any) -> Ways:
    """How the tokenizer writes the ways to a verdict.

    Raises:
        IndusCotError: Yes and No do not part with a single token at the end of one of them, so that one forward pass
            cannot tell their probabilities.
    """

    def ids(text: str) -> list[int]:
        return processor.tokenizer.encode(text, add_special_tokens=False)

    probe = ids(PROBE)
    every = {name: ids(PROBE + text) for name, text in _TAGS.items()}
    if any(found[: len(probe)] != probe for found in every.values()):
        raise IndusCotError(f"the tokenizer joins {PROBE!r} with what follows; make </think> a token of its own")
    location, yes, no = (tuple(found[len(probe) :]) for found in every.values())
    location = location[: max(_common(location, yes), _common(location, no)) + 1]
    parted = _common(yes, no)
    if min(len(yes), len(no)) != parted + 1:
        raise IndusCotError(
            "the tokenizer writes Yes and No in an <answer> as several tokens each; the confidence of a verdict is "
            "read in one pass. Use a tokenizer that has one of them as a single token there"
        )
    found = Ways(location, yes, no)
    assert all(way[:-1] == found.given[: len(way) - 1] for way in (location, yes, no))
    return found


_TAGS = {"location": "<location>", "yes": "<answer>Yes", "no": "<answer>No"}


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def until_observed(prompt: Sequence[Message], completion: Sequence[Message]) -> list[Message]:
    """Prompt, calls and observations, without what was thought of the last one; the prompt alone where none is."""
    seen = max((number for number, message in enumerate(completion, 1) if message["role"] == "tool"), default=0)
    return [*prompt, *completion[:seen]]


def margins(
    model: Any,
    processor: Any,
    chats: Sequence[Sequence[Message]],
    at_once: int,
    tools: Sequence[dict[str, Any]] | None = (),
) -> list[float]:
    """``log p(Yes) - log p(No)`` after each chat, with no gradient.

    The model runs ``ceil(len(chats) / at_once)`` times, whatever is in the chats: ranks with as many chats make as
    many passes, as sharded models need.

    Args:
        model: The policy, as the trainer holds it; left in the mode it was in.
        processor: Its processor.
        chats: Messages with their images in place (PIL), ending before the assistant's turn.
        at_once: Chats a pass, which bounds memory.
        tools: Schemas of the tools that the policy was told of; None where it was told of none. Without it, all.

    Raises:
        IndusCotError: as :func:`ways`.
    """
    import torch

    found = ways(processor)
    told = tool_schemas() if tools == () else tools
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return [
                margin
                for start in range(0, len(chats), at_once)
                for margin in _pass(model, processor, chats[start : start + at_once], found, told)
            ]
    finally:
        model.train(training)


def _pass(
    model: Any,
    processor: Any,
    chats: Sequence[Sequence[Message]],
    found: Ways,
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
    rows, tail = len(chats), torch.tensor([found.given], dtype=torch.long)
    for name, filling in (("input_ids", tail), ("attention_mask", tail * 0 + 1), ("mm_token_type_ids", tail * 0)):
        if name in inputs:
            inputs[name] = torch.cat([inputs[name], filling.expand(rows, -1).to(inputs[name].dtype)], dim=1)
    inputs = inputs.to(next(model.parameters()).device)
    # Logits of the token before each of the given ones, and of what comes after them.
    logits = model(**inputs, logits_to_keep=len(found.given) + 1).logits.float().log_softmax(-1)

    def of(way: tuple[int, ...]) -> Any:
        return sum(logits[:, place, token] for place, token in enumerate(way))

    return (torch.logaddexp(of(found.location), of(found.yes)) - of(found.no)).tolist()


def gain(answer: str, before: float, after: float) -> float:
    """By how much the margin of ``answer`` over the other rose, in nats; NaN where a margin is no number."""
    rise = after - before
    return rise if answer == "Yes" else -rise if not math.isnan(rise) else math.nan
