"""Generates the next turn of several chats in one batch, with a model in this process."""

from collections.abc import Sequence
from typing import Any

from cot_builder.inspection.episode import GeneratedTurn, TurnGenerator
from cot_builder.inspection.rendering import Message


def make_writer(
    model: Any, processor: Any, tools: Sequence[dict[str, Any]] | None, max_tokens: int, temperature: float
) -> TurnGenerator:
    """Return a function that generates the next turn of each chat, in one batch.

    Args:
        model: The model, in evaluation mode, on its device.
        processor: Its processor.
        tools: Tool schemas for the chat template.
        max_tokens: Token limit of a turn.
        temperature: Sampling temperature; 0 takes the likeliest token.
    """
    import torch

    sampling: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    )
    found = model.generation_config.eos_token_id
    ends = {*(found if isinstance(found, list) else [found]), processor.tokenizer.eos_token_id}

    def write(chats: Sequence[Sequence[Message]]) -> list[GeneratedTurn]:
        texts = [
            processor.apply_chat_template(list(chat), tools=tools, add_generation_prompt=True, tokenize=False)
            for chat in chats
        ]
        images = [
            [part["image"] for message in chat for part in message["content"] if part["type"] == "image"]
            for chat in chats
        ]
        inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        lengths = inputs["attention_mask"].sum(dim=1).tolist()
        inputs = inputs.to(model.device)
        with torch.inference_mode():
            rows = model.generate(**inputs, max_new_tokens=max_tokens, **sampling)[:, inputs["input_ids"].shape[1] :]
        return [_to_written(processor, ids, ends, length) for ids, length in zip(rows.tolist(), lengths, strict=True)]

    return write


def _to_written(processor: Any, ids: list[int], ends: set[int], input_tokens: int) -> GeneratedTurn:
    end = next((place for place, token in enumerate(ids) if token in ends), None)
    text = processor.tokenizer.decode(ids[:end], skip_special_tokens=True)
    # Count the end-of-turn token too, as the usage of an endpoint does.
    return GeneratedTurn(text, input_tokens, len(ids) if end is None else end + 1, cut=end is None)
