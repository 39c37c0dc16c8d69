"""Tests that training, rollouts and serving render a trajectory to the same tokens and images."""

import json
from typing import Any

import pytest
import torch

from cot_builder.inspection.rendering import flatten_for_endpoint
from cot_builder.inspection.toolbox import tool_schemas
from cot_builder.storage.output import Output
from cot_builder.storage.workspace import Workspace
from tests.helpers.small_policy import params
from train import corpus
from train.collator import decode_image, make_collator
from train.grpo import build_trainer, select_prompts
from train.model import load_processor

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def processor(trainable: Workspace) -> Any:
    return load_processor(str(trainable.root / "tiny"))


@pytest.fixture(scope="module")
def rows(trainable: Workspace) -> list[dict[str, Any]]:
    return list(corpus.read(trainable.indus_cot)["train"])


@pytest.fixture(scope="module")
def trainer(trainable: Workspace, processor: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The trainer of `grpo`, which renders prompts and tool turns."""
    folder, model = tmp_path_factory.mktemp("grpo"), trainable.root / "tiny"
    asked = select_prompts(corpus.read(trainable.indus_cot)["train"], processor, 4096, Output(folder))
    return build_trainer(params(model), str(model), processor, asked, {}, {}, folder)


def insert_images(row: dict[str, Any]) -> list[dict[str, Any]]:
    images = iter(row["images"])
    return [
        {**message, "content": [_insert_image(part, images) for part in message["content"]]}
        for message in row["messages"]
    ]


def _insert_image(part: dict[str, Any], images: Any) -> dict[str, Any]:
    return part if part["type"] == "text" else {"type": "image", "image": decode_image(next(images)["bytes"])}


def render_training(row: dict[str, Any], processor: Any) -> tuple[list[int], list[Any]]:
    batch = make_collator(processor)([row])
    return batch["input_ids"][0].tolist(), batch["image_grid_thw"].tolist()


def render_rollout(row: dict[str, Any], trainer: Any) -> tuple[list[int], list[Any]]:
    """Build the ids as TRL's GRPO does: the prompt, then the sampled turns and the ids of each tool turn."""
    chat, processor = insert_images(row), trainer.processing_class
    # TRL looks up the environment of each prompt; there is only one, without a name.
    trainer._batch_environments = [None]
    (ids,), _, shown = trainer._tokenize_prompts([chat[:2]])
    ids, grids = list(ids), torch.as_tensor(shown["image_grid_thw"]).tolist()
    for message in chat[2:]:
        if message["role"] == "tool":
            ids += trainer._get_tool_suffix_ids([message])
            shown = [part["image"] for part in message["content"] if part["type"] == "image"]
            grids += processor.image_processor(shown)["image_grid_thw"].tolist() if shown else []
        else:
            ids += processor.tokenizer.encode(render_sampled(message), add_special_tokens=False)
    return ids, grids


def render_sampled(message: dict[str, Any]) -> str:
    """Return an assistant's turn as a policy writes it."""
    calls = [
        f"\n<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", [])
    ]
    return "".join([*(part["text"] for part in message["content"]), *calls, "<|im_end|>"])


def render_served(row: dict[str, Any], processor: Any) -> tuple[list[int], list[Any]]:
    """Render a chat as a server does for an endpoint: with the model's template, without tool turns and native calls."""
    chat = flatten_for_endpoint(insert_images(row))
    assert {message["role"] for message in chat} <= {"system", "user", "assistant"}
    assert not any("tool_calls" in message for message in chat)
    batch = processor.apply_chat_template(
        chat, tools=tool_schemas(), tokenize=True, return_dict=True, return_tensors="pt"
    )
    return batch["input_ids"][0].tolist(), batch["image_grid_thw"].tolist()


def test_training_rollouts_and_serving_agree(rows, processor, trainer) -> None:
    assert {len(row["images"]) for row in rows} >= {1, 2, 3}
    assert any("error:" in json.dumps(row["messages"]) for row in rows)
    for row in rows:
        ids, grids = render_training(row, processor)
        assert len(grids) == len(row["images"])
        # The template adds a line break after the last turn, but generation stops before it.
        *written, line_break = ids
        assert processor.tokenizer.decode([line_break]) == "\n"
        assert render_rollout(row, trainer) == (written, grids)
        assert render_served(row, processor) == (ids, grids)


def test_tool_schemas_agree_everywhere(rows, trainer) -> None:
    from transformers.utils import get_json_schema

    assert all(row["tools"] == tool_schemas() for row in rows)
    assert trainer._env_tools == {None: tool_schemas()}
    # TRL finds the same tools in the environment; its own schemas lack only an empty list.
    found = [get_json_schema(tool) for tool in trainer.tools]
    for schema in found:
        schema["function"]["parameters"].setdefault("required", [])
    assert found == tool_schemas()
