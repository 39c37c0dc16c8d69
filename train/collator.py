"""Turns trajectories into token ids, images and labels; only the tokens that the policy writes bear loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
from PIL import Image

from cot_builder.storage.header import read_header
from cot_builder.storage.images import decode
from schemas.errors import IndusCotError

IGNORE_INDEX = -100
"""Label of a token that bears no loss."""
COUNT_BATCH = 64
"""Examples that are tokenized at once to count their tokens."""
Example = Mapping[str, Any]
"""``messages`` with ``{"type": "image"}`` placeholders, ``images`` as ``{"bytes"}``, ``tools`` as schemas or None;
``id`` names the row where an image turns out to be damaged."""


def make_collator(processor: Any) -> Callable[[Sequence[Example]], dict[str, Any]]:
    """Return a function that collates examples into a padded batch.

    The batch holds ``input_ids``, ``attention_mask``, ``labels`` and ``mm_token_type_ids``, int64 (rows, tokens),
    padded on the right; ``pixel_values``, float32 (patches, values), and ``image_grid_thw``, int64 (images, 3).
    Labels are the ids of the tokens that the policy writes (thoughts, calls, verdict and end of turn), and -100
    elsewhere.

    Args:
        processor: Processor of the policy; TRL must have a training form of its chat template.

    Raises:
        IndusCotError: TRL has none.
    """
    return partial(_collate, processor=processor, template=load_training_template(processor))


def load_training_template(processor: Any) -> str:
    """Return the chat template that renders the same text and also marks the tokens of the assistant.

    Raises:
        IndusCotError: TRL has no training form of this chat template.
    """
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(processor) or processor.chat_template
    except ValueError as error:
        raise IndusCotError(
            "train.model: TRL has no training form of its chat template, so the loss cannot be restricted to the "
            f"policy's words; use the chat template of Qwen3-VL ({' '.join(str(error).split())[:200]})"
        ) from error


def decode_image(data: bytes, name: str = "image") -> Image.Image:
    """Decode an image file to RGB.

    It uses the tools' decoder, so that boxes refer to the same pixels.

    Raises:
        IndusCotError: the bytes are not an image.
    """
    return Image.fromarray(cv2.cvtColor(decode(data, name=name), cv2.COLOR_BGR2RGB))


def count_tokens(examples: Iterable[Example], processor: Any) -> list[int]:
    """Count the tokens of each example, image tokens included, without decoding an image."""
    found: list[int] = []
    texts, images = [], []
    for example in examples:
        texts.append(
            processor.apply_chat_template(list(example["messages"]), tools=example["tools"] or None, tokenize=False)
        )
        images.append(sum(count_image_tokens(image["bytes"], processor) - 1 for image in example["images"]))
        if len(texts) == COUNT_BATCH:
            found += _count_batch(texts, images, processor)
            texts, images = [], []
    return found + _count_batch(texts, images, processor)


def count_image_tokens(data: bytes, processor: Any) -> int:
    """Count the tokens that represent an image file."""
    header = read_header(data)
    sizes = processor.image_processor
    return sizes.get_number_of_image_patches(header.height, header.width) // sizes.merge_size**2


def _count_batch(texts: list[str], images: list[int], processor: Any) -> list[int]:
    if not texts:
        return []
    ids = processor.tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [len(row) + more for row, more in zip(ids, images, strict=True)]


def _collate(examples: Sequence[Example], processor: Any, template: str) -> dict[str, Any]:
    import torch

    tools = examples[0]["tools"] or None
    if any((example["tools"] or None) != tools for example in examples):
        raise IndusCotError("the rows of a batch list different tools; run `indus-cot assemble` again")
    batch = processor.apply_chat_template(
        [_insert_images(example) for example in examples],
        tools=tools,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        # Convert to tensors below: transformers marks the assistant's tokens in a loop that is slow on tensors.
        return_tensors=None,
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": "right", "add_special_tokens": False},
    )
    batch = {name: torch.as_tensor(value) for name, value in batch.items()}
    ids = batch["input_ids"]
    labels = ids.masked_fill((batch.pop("assistant_masks") == 0) | (batch["attention_mask"] == 0), IGNORE_INDEX)
    # The template adds a line break after the end of a turn. The policy does not write it, so it bears no loss.
    labels[:, 1:][ids[:, :-1] == processor.tokenizer.eos_token_id] = IGNORE_INDEX
    return {**batch, "labels": labels}


def _insert_images(example: Example) -> list[dict[str, Any]]:
    """Return the messages with the decoded images in place of the placeholders, in tool turns too."""
    images = (
        decode_image(image["bytes"], f"row {example['id']}, image {number}" if "id" in example else f"image {number}")
        for number, image in enumerate(example["images"])
    )
    return [
        {
            **message,
            "content": [
                {"type": "image", "image": next(images)} if part["type"] == "image" else part
                for part in message["content"]
            ],
        }
        for message in example["messages"]
    ]
