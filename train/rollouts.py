"""What the policy did: sample rollouts with their images, as files while it trains and as one page for people."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from cot_builder.inspection.rendering import Message
from cot_builder.storage.output import write_text

LONGEST_SIDE = 288
"""Pixels of an image on the page."""
Rollout = dict[str, Any]


def rollout(
    row_id: str, prompt: Sequence[Message], completion: Sequence[Message], truth: str, terms: Mapping[str, float]
) -> Rollout:
    """One rollout as JSON: every turn with its text and its images as data URIs.

    Args:
        row_id: Of the corpus.
        prompt: Messages with PIL images; of these the last one is shown.
        completion: What followed.
        truth: The true verdict in words.
        terms: The reward and its terms.
    """
    return {
        "id": row_id,
        "truth": truth,
        "terms": {name: round(value, 4) for name, value in terms.items()},
        "turns": [_turn(message) for message in (prompt[-1], *completion)],
    }


def _turn(message: Message) -> dict[str, Any]:
    content = message.get("content") or ""
    parts: Sequence[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    calls = [json.dumps(call.get("function", call), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return {
        "role": message["role"],
        "texts": [part["text"] for part in parts if part["type"] == "text" and part["text"]],
        "calls": calls,
        "images": [_uri(part["image"]) for part in parts if part["type"] == "image"],
    }


def _uri(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def save(folder: Path, step: int, found: Sequence[Rollout]) -> None:
    """Keep the rollouts of a step; a step that is trained again after a resume replaces its own."""
    write_text(folder / f"{step:06d}.json", json.dumps({"step": step, "rollouts": list(found)}, ensure_ascii=False))


def page(folder: Path, target: Path, title: str) -> None:
    """Write one self-contained page with every kept step, the first at the top."""
    steps = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    body = "".join(
        f"<details{' open' if number in (0, len(steps) - 1) else ''}><summary>Step {step['step']} · "
        f"{len(step['rollouts'])} rollouts, mean reward {_mean(step['rollouts']):.2f}</summary>"
        f"<div class=row>{''.join(_card(item) for item in step['rollouts'])}</div></details>"
        for number, step in enumerate(steps)
    )
    write_text(
        target,
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>{body}</html>\n",
    )


def _mean(found: Sequence[Rollout]) -> float:
    return sum(item["terms"]["reward"] for item in found) / len(found) if found else 0.0


def _card(item: Rollout) -> str:
    terms = "".join(
        f"<span class={'good' if value > 0 else 'bad' if value < 0 else 'none'}>{html.escape(name)} {value:+.2f}</span>"
        for name, value in item["terms"].items()
    )
    turns = "".join(
        f"<div class='turn {html.escape(turn['role'])}'><b>{_WHO.get(turn['role'], html.escape(turn['role']))}</b>"
        + "".join(f"<img alt='' src='{html.escape(image)}'>" for image in turn["images"])
        + "".join(f"<p>{html.escape(text)}</p>" for text in turn["texts"])
        + "".join(f"<code>{html.escape(call)}</code>" for call in turn["calls"])
        + "</div>"
        for turn in item["turns"]
    )
    return (
        f"<article><p class=terms>{terms}</p><p class=truth>truth: {html.escape(item['truth'])}</p>{turns}"
        f"<p class=id>{html.escape(item['id'])}</p></article>"
    )


_WHO = {"user": "question", "assistant": "policy", "tool": "tool"}
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:14px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:1500px;padding:0 1rem}
h1{font-size:1.3rem}summary{cursor:pointer;font-weight:600;padding:.6rem 0}
.row{display:flex;gap:1rem;overflow-x:auto;align-items:flex-start;padding-bottom:1rem}
article{flex:0 0 330px;border:1px solid var(--line);border-radius:8px;padding:.7rem}
p{margin:.3rem 0;overflow-wrap:anywhere;white-space:pre-wrap}
.terms{display:flex;flex-wrap:wrap;gap:.3rem}
.terms span{border-radius:4px;padding:0 .4rem;background:var(--soft);font-variant-numeric:tabular-nums}
.good{color:#18794e}.bad{color:#c0362c}.none,.id,.truth{opacity:.75}
.turn{border-top:1px solid var(--line);padding:.4rem 0}.turn b{font-size:.75rem;text-transform:uppercase;opacity:.6}
.turn img{display:block;max-width:100%;border-radius:4px;margin:.3rem 0}
.tool{background:var(--soft);margin:0 -.7rem;padding:.4rem .7rem}
code{display:block;overflow-wrap:anywhere;font-size:.8rem;margin:.3rem 0}
@media(prefers-color-scheme:dark){.good{color:#4cc38a}.bad{color:#ff8a80}}
""".strip()
