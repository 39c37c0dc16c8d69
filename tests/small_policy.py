"""A tiny policy that calls a tool once and gives a verdict, fitted to two inspections of the small corpus."""

import json
from pathlib import Path
from typing import Any

from cot_builder.inspection.rendering import messages
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.params import Params
from cot_builder.storage.images import decode
from schemas.trajectory import ToolCall, Trajectory, Turn, Verdict
from tests import small_corpus
from train import corpus, tiny
from train.collator import collator
from train.model import load_model, load_processor

CROP = ToolCall(tool="crop", arguments={"region": [250, 250, 750, 750]})
FITTED, RAW = "fitted", "raw"


def build(root: Path) -> Path:
    """The small corpus under ``root``, and in ``root/raw`` and ``root/fitted`` a model as made and as fitted."""
    import torch

    torch.set_num_threads(1)
    workspace = small_corpus.build(root)
    rows = corpus.read(workspace.indus_cot)["train"]
    examples = [example(row) for row in rows]
    texts = {
        text
        for item in examples
        for message in item["messages"]
        for text in (
            *(part["text"] for part in message["content"] if part["type"] == "text"),
            *(json.dumps(call["function"]) for call in message.get("tool_calls", ())),
        )
    }
    tiny.build(root / RAW, [*sorted(texts), json.dumps(examples[0]["tools"])], 7)
    processor, model = load_processor(str(root / RAW)), load_model(str(root / RAW))
    collate = collator(processor)
    chosen = {row["answer"]: item for item, row in zip(examples, rows, strict=True)}
    batch = collate(list(chosen.values()))
    optimiser = torch.optim.AdamW(model.parameters(), 4e-3)
    model.train()
    for _ in range(60):
        loss = model(**batch).loss
        if loss < 0.05:
            break
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(root / FITTED)
    processor.save_pretrained(root / FITTED)
    return root


def example(row: dict[str, Any]) -> dict[str, Any]:
    """A trajectory of the row's image with one real call."""
    observation, png = Toolbox(decode(row["images"][0]["bytes"]), {}).observe(CROP)
    verdict = (
        Verdict(answer="Yes", boxes=[(250, 250, 500, 500)], defect_type=row["defect_type"])
        if row["answer"] == "Yes"
        else Verdict(answer="No")
    )
    turns = [Turn(thought="Look closer.", call=CROP, observation=observation), Turn(thought="I have seen it.")]
    chat = messages(Trajectory(turns=turns, verdict=verdict), row["category"], row["view"])
    return {"messages": chat, "images": [row["images"][0], {"bytes": png}], "tools": row["tools"]}


def params(model: Path, **grpo: Any) -> Params:
    """Parameters for a few short steps from ``model``."""
    found = small_corpus.params()
    changed = {"model": str(model), "steps": 3, "max_completion": 300, "save_steps": 1, "sample_steps": 1}
    return found.model_copy(update={"grpo": found.grpo.model_copy(update={**changed, "temperature": 0.6, **grpo})})
