"""Train outside this project: from `datasets.load_dataset` to the loss of a batch on a vision-language model.

After `make demo`: `.venv/bin/python examples/train_elsewhere.py [MODEL] [CORPUS]`. MODEL is a Qwen3-VL on the Hub or in
a folder; without one, or with `-`, a tiny model is made offline. CORPUS is a folder; of a published one on the Hub,
load the configuration `sft`. TRL takes `collate` as it is: SFTTrainer(model, settings, collate, corpus) with
settings = SFTConfig("out", max_length=None, remove_unused_columns=False).
"""

import sys
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from train import tiny


def fill_in(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages of a row with its images in place of the placeholders, in tool turns too."""
    images = iter(row["images"])
    fill = {"image": lambda part: part | {"image": next(images)}, "text": dict}
    return [turn | {"content": [fill[part["type"]](part) for part in turn["content"]]} for turn in row["messages"]]


def label(ids: list[int], start: list[int], end: int) -> list[int]:
    """The ids of what the assistant writes; -100, which bears no loss, elsewhere."""
    labels = [-100] * len(ids)
    for at in range(len(start), len(ids)):
        if ids[at - len(start) : at] == start:
            stop = ids.index(end, at) + 1
            labels[at:stop] = ids[at:stop]
    return labels


name = sys.argv[1] if len(sys.argv) > 1 else "-"
corpus = datasets.load_dataset(sys.argv[2] if len(sys.argv) > 2 else "data/indus_cot", split="train")
if name == "-":
    name = "models/tiny-example"
    tiny.build(Path(name), map(str, corpus["messages"]), seed=0, systems=tiny.list_systems())
processor = AutoProcessor.from_pretrained(name)
model = AutoModelForImageTextToText.from_pretrained(name)
start = processor.tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)
end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")


def collate(rows: list[dict[str, Any]]) -> Any:
    """Rows of the corpus as one padded batch of tensors."""
    chats = [fill_in(row) for row in rows]
    template = {"tools": rows[0]["tools"], "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(chats, **template, processor_kwargs={"padding": True})
    batch["labels"] = torch.tensor([label(ids, start, end) for ids in batch["input_ids"].tolist()])
    return batch


batch = collate(list(corpus.select(range(2))))
print("\n".join(f"{key:20} {tuple(value.shape)} {value.dtype}" for key, value in batch.items()))
print(f"{int((batch['labels'] != -100).sum())} tokens bear loss; loss {model(**batch).loss.item():.2f}")
