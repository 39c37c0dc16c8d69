"""Trajectories to token ids, images and labels: what a policy is trained on is what it writes, nothing else."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import cv2
from PIL import Image

from cot_builder.storage.header import read_header
from cot_builder.storage.images import decode
from schemas.errors import IndusCotError

IGNORED = -100
"""Label of a token that bears no loss."""
COUNTED_AT_ONCE = 64
Example = Mapping[str, Any]
"""``messages`` with ``{"type": "image"}`` placeholders, ``images`` as ``{"bytes"}``, ``tools`` as schemas or None;
``id`` names the row where an image turns out to be damaged."""


def collator(processor: Any) -> Callable[[Sequence[Example]], dict[str, Any]]:
    """A function from examples to a padded batch, for a processor whose chat template TRL has a training form of.

    The batch holds ``input_ids``, ``attention_mask``, ``labels`` and ``mm_token_type_ids``, int64 (rows, tokens),
    padded on the right; ``pixel_values``, float32 (patches, values), and ``image_grid_thw``, int64 (images, 3).
    Labels are the ids of what the policy writes: thoughts, calls, verdict and end of turn; -100 elsewhere.
    """
    return partial(_collate, processor=processor, template=training_template(processor))


def training_template(processor: Any) -> str:
    """The chat template that also marks what the assistant writes; it renders the same text.

    Raises:
        IndusCotError: TRL has none for this template.
    """
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(processor) or processor.chat_template
    except ValueError as error:
        raise IndusCotError(
            "train.model: TRL knows no training form of its chat template, which tells the policy's words from the "
            f"rest; use the template of Qwen3-VL ({' '.join(str(error).split())[:200]})"
        ) from error


def picture(data: bytes, name: str = "image") -> Image.Image:
    """An image file as RGB, decoded as the tools decode it, so that boxes keep fitting.

    Raises:
        IndusCotError: the bytes are no image.
    """
    return Image.fromarray(cv2.cvtColor(decode(data, name=name), cv2.COLOR_BGR2RGB))


def lengths(examples: Iterable[Example], processor: Any) -> list[int]:
    """Tokens of each example, image tokens included, without decoding an image."""
    found: list[int] = []
    texts, images = [], []
    for example in examples:
        texts.append(
            processor.apply_chat_template(list(example["messages"]), tools=example["tools"] or None, tokenize=False)
        )
        images.append(sum(image_tokens(image["bytes"], processor) - 1 for image in example["images"]))
        if len(texts) == COUNTED_AT_ONCE:
            found += _count(texts, images, processor)
            texts, images = [], []
    return found + _count(texts, images, processor)


def image_tokens(data: bytes, processor: Any) -> int:
    """Tokens that stand for an image file."""
    header = read_header(data)
    sizes = processor.image_processor
    return sizes.get_number_of_image_patches(header.height, header.width) // sizes.merge_size**2


def _count(texts: list[str], images: list[int], processor: Any) -> list[int]:
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
        [_filled(example) for example in examples],
        tools=tools,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        # Tensors are made here: transformers marks the assistant's tokens in a loop that is slow on tensors.
        return_tensors=None,
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": "right", "add_special_tokens": False},
    )
    batch = {name: torch.as_tensor(value) for name, value in batch.items()}
    ids = batch["input_ids"]
    labels = ids.masked_fill((batch.pop("assistant_masks") == 0) | (batch["attention_mask"] == 0), IGNORED)
    # The line break after an end of turn is the template's: generation has stopped by then.
    labels[:, 1:][ids[:, :-1] == processor.tokenizer.eos_token_id] = IGNORED
    return {**batch, "labels": labels}


def _filled(example: Example) -> list[dict[str, Any]]:
    """The messages with their images in place, in tool turns as elsewhere."""
    images = (
        picture(image["bytes"], f"row {example['id']}, image {number}" if "id" in example else f"image {number}")
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
