"""Saves sample rollouts of the policy with their images as JSON files during training; ``eval/report`` shows them."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cot_builder.inspection.rendering import Message
from cot_builder.storage.output import write_text

LONGEST_SIDE = 288
"""Longest side of an image on the page, in pixels."""
Rollout = dict[str, Any]


def rollout_to_json(
    row_id: str, prompt: Sequence[Message], completion: Sequence[Message], truth: str, terms: Mapping[str, float]
) -> Rollout:
    """Convert a rollout to JSON: every turn with its text, and its images as data URIs.

    Args:
        row_id: Id of the row in the corpus.
        prompt: Messages with PIL images; only the last one is kept.
        completion: Messages after the prompt.
        truth: The true verdict as text.
        terms: The reward and its terms.
    """
    return {
        "id": row_id,
        "truth": truth,
        "terms": {name: round(value, 4) for name, value in terms.items()},
        "turns": [_turn_to_json(message) for message in (prompt[-1], *completion)],
    }


def _turn_to_json(message: Message) -> dict[str, Any]:
    content = message.get("content") or ""
    parts: Sequence[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return {
        "role": message["role"],
        "texts": [part["text"] for part in parts if part["type"] == "text" and part["text"]],
        "calls": calls,
        "images": [_to_data_uri(part["image"]) for part in parts if part["type"] == "image"],
    }


def _to_data_uri(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def save_step(folder: Path, step: int, found: Sequence[Rollout]) -> None:
    """Save the rollouts of a step; after a resume, a step that is trained again overwrites its file."""
    write_text(folder / f"{step:06d}.json", json.dumps({"step": step, "rollouts": list(found)}, ensure_ascii=False))
