"""A small policy that calls a tool once and gives a verdict, fitted to two inspections of the small corpus."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from cot_builder.inspection.rendering import render_messages
from cot_builder.inspection.toolbox import Toolbox
from cot_builder.params import Params
from cot_builder.storage.images import decode
from cot_builder.storage.workspace import Workspace
from schemas.trajectory import ToolCall, Trajectory, Turn, Verdict
from tests.helpers import small_corpus
from tests.helpers.training_project import build_model
from train import corpus
from train.collator import make_collator
from train.model import load_model, load_processor

CROP = ToolCall(tool="crop", arguments={"region": [250, 250, 750, 750]})
THOUGHTS = ("Look closer.", "I have seen it.")
FITTED, RAW, UNDECIDED = "fitted", "raw", "undecided"


def build(
    root: Path,
    workspace: Workspace,
    make: Callable[[Path, Iterable[str], int], None] = build_model,
    thoughts: tuple[str, str] = THOUGHTS,
) -> Path:
    """Link the corpus of ``workspace`` to ``root/data``, and write a raw and a fitted model to ``root``.

    Args:
        root: An empty folder.
        workspace: Workspace of the small corpus.
        make: Writes a model to a folder, from texts and a seed.
        thoughts: Thoughts before and after the call.
    """
    (root / "data").symlink_to(workspace.root / "data")
    rows = corpus.read(workspace.indus_cot)["train"]
    examples = [make_example(row, thoughts) for row in rows]
    texts = {
        text
        for item in examples
        for message in item["messages"]
        for text in (
            *(part["text"] for part in message["content"] if part["type"] == "text"),
            *(json.dumps(call["function"]) for call in message.get("tool_calls", ())),
        )
    }
    make(root / RAW, [*sorted(texts), json.dumps(examples[0]["tools"])], 7)
    chosen = {row["answer"]: item for item, row in zip(examples, rows, strict=True)}
    fit(root / RAW, list(chosen.values()), root / FITTED)
    return root


def fit(start: Path, examples: Sequence[dict[str, Any]], target: Path, rate: float = 4e-3, most: int = 120) -> None:
    """Train on the same examples until the loss is below 0.03, for at most ``most`` steps."""
    import torch

    torch.set_num_threads(1)
    processor, model = load_processor(str(start)), load_model(str(start))
    batch = make_collator(processor)(examples)
    optimiser = torch.optim.AdamW(model.parameters(), rate)
    model.train()
    for _ in range(most):
        loss = model(**batch).loss
        if loss < 0.03:
            break
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(target)
    processor.save_pretrained(target)


def make_example(row: dict[str, Any], thoughts: tuple[str, str] = THOUGHTS) -> dict[str, Any]:
    """Make a trajectory on the row's image with one real call."""
    observation, png = Toolbox(decode(row["images"][0]["bytes"]), {}).observe(CROP)
    turns = [Turn(thought=thoughts[0], call=CROP, observation=observation), Turn(thought=thoughts[1])]
    chat = render_messages(Trajectory(turns=turns, verdict=_verdict(row["answer"], row)), row["category"], row["view"])
    return {"messages": chat, "images": [row["images"][0], {"bytes": png}], "tools": row["tools"]}


def make_guesses(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Make both verdicts on the row's image, without a call."""
    turns = [Turn(thought=THOUGHTS[1])]
    return [
        {
            "messages": render_messages(
                Trajectory(turns=turns, verdict=_verdict(answer, row)), row["category"], row["view"]
            ),
            "images": row["images"][:1],
            "tools": row["tools"],
        }
        for answer in ("Yes", "No")
    ]


def _verdict(answer: str, row: dict[str, Any]) -> Verdict:
    if answer == "No":
        return Verdict(answer="No")
    return Verdict(answer="Yes", boxes=[(250, 250, 500, 500)], defect_type=row["defect_type"] or "scratch")


def params(model: Path, train: dict[str, Any] | None = None, **grpo: Any) -> Params:
    """Return parameters for a few short steps from ``model``."""
    found = small_corpus.params()
    changed = {"model": str(model), "steps": 3, "max_completion": 300, "save_steps": 1, "sample_steps": 1}
    return found.model_copy(
        update={
            "train": found.train.model_copy(update=train or {}),
            "grpo": found.grpo.model_copy(update={**changed, "temperature": 0.6, **grpo}),
        }
    )
