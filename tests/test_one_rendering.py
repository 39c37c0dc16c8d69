"""One trajectory, three ways to a model: training, rollouts and serving give the same tokens and images."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cot_builder.inspection.rendering import for_endpoint
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.storage.workspace import Workspace
from train import corpus
from train.collator import collator, picture, training_template
from train.model import load_processor

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor(trainable: Workspace) -> Any:
    return load_processor(str(trainable.root / "tiny"))


@pytest.fixture(scope="module")
def rows(trainable: Workspace) -> list[dict[str, Any]]:
    return list(corpus.read(trainable.indus_cot)["train"])


def filled(row: dict[str, Any]) -> list[dict[str, Any]]:
    images = iter(row["images"])
    return [
        {**message, "content": [_shown(part, images) for part in message["content"]]} for message in row["messages"]
    ]


def _shown(part: dict[str, Any], images: Any) -> dict[str, Any]:
    return part if part["type"] == "text" else {"type": "image", "image": picture(next(images)["bytes"])}


def trained(row: dict[str, Any], processor: Any) -> tuple[list[int], list[Any]]:
    batch = collator(processor)([row])
    return batch["input_ids"][0].tolist(), batch["image_grid_thw"].tolist()


def rolled_out(row: dict[str, Any], processor: Any) -> tuple[list[int], list[Any]]:
    """As TRL's GRPO puts it together: the prompt, then what was sampled, then each tool turn's own ids."""
    # Importable once a processor has been loaded.
    from trl import GRPOTrainer
    from trl.data_utils import prepare_multimodal_messages

    trainer: Any = SimpleNamespace(
        _is_vlm=True,
        processing_class=processor,
        _tokenizer=processor.tokenizer,
        chat_template=training_template(processor),
        chat_template_kwargs={},
    )
    chat = filled(row)
    start = processor.apply_chat_template(
        prepare_multimodal_messages(chat[:2]),
        tools=tool_schemas(),
        chat_template=trainer.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids, grids = start["input_ids"][0].tolist(), start["image_grid_thw"].tolist()
    for message in chat[2:]:
        if message["role"] == "tool":
            ids += GRPOTrainer._get_tool_suffix_ids(trainer, [message])
            shown = [part["image"] for part in message["content"] if part["type"] == "image"]
            grids += processor.image_processor(shown)["image_grid_thw"].tolist() if shown else []
        else:
            ids += processor.tokenizer.encode(sampled(message), add_special_tokens=False)
    return ids, grids


def sampled(message: dict[str, Any]) -> str:
    """An assistant's turn as a policy writes it."""
    calls = [
        f"\n<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", [])
    ]
    return "".join([*(part["text"] for part in message["content"]), *calls, "<|im_end|>"])


def served(row: dict[str, Any], processor: Any) -> tuple[list[int], list[Any]]:
    """As a server renders what an endpoint is sent: the model's own template, no tool turn, no native call."""
    chat = for_endpoint(filled(row))
    assert {message["role"] for message in chat} <= {"system", "user", "assistant"}
    assert not any("tool_calls" in message for message in chat)
    batch = processor.apply_chat_template(
        chat, tools=tool_schemas(), tokenize=True, return_dict=True, return_tensors="pt"
    )
    return batch["input_ids"][0].tolist(), batch["image_grid_thw"].tolist()


def test_training_rollouts_and_serving_give_the_same_tokens_and_images(rows, processor) -> None:
    assert {len(row["images"]) for row in rows} >= {1, 2, 3}
    assert any("error:" in json.dumps(row["messages"]) for row in rows)
    for row in rows:
        ids, grids = trained(row, processor)
        assert len(grids) == len(row["images"])
        # The template breaks the line after the last turn, where generation has ended.
        *written, line_break = ids
        assert processor.tokenizer.decode([line_break]) == "\n"
        assert rolled_out(row, processor) == (written, grids)
        assert served(row, processor) == (ids, grids)


def test_the_corpus_shows_the_tools_that_rollouts_are_given(rows) -> None:
    assert all(row["tools"] == tool_schemas() for row in rows)
