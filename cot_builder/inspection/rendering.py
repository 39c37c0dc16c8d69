"""A trajectory as text: chat messages with native tool calls, and the paper's tags. One function each, for
training, rollouts and serving alike."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from cot_builder.inspection.names import category_name
from schemas.geometry import Box
from schemas.taxonomy import leaves
from schemas.trajectory import Trajectory, Verdict

Message = dict[str, Any]
ANSWER_GRAMMAR = re.compile(
    r"<think>[^<>]+</think>"
    r"(?:<location>\[\[\d+, \d+, \d+, \d+\](?:, \[\d+, \d+, \d+, \d+\])*\]</location>"
    r"<type>[a-z_]+</type><answer>Yes</answer>"
    r"|<answer>No</answer>)"
)
"""Grammar of the last assistant turn."""


@lru_cache(maxsize=2)
def system_prompt(tools: bool = True) -> str:
    """What the inspector is told before every image; without tools, no word of them."""
    looking = (
        "When something is in doubt, call one tool a turn and look at what it returns; when the image is clear, "
        "answer at once. "
    )
    return (
        "You inspect one photograph of a manufactured part or surface and decide whether it shows a defect. "
        f"There is no reference image. Think inside <think></think>. {looking if tools else ''}"
        "Coordinates are integers 0-1000 of the original image, as [x1, y1, x2, y2].\n"
        "End with <think>…</think> and then, for a defect, "
        "<location>[[x1, y1, x2, y2], …]</location><type>…</type><answer>Yes</answer>, "
        "otherwise <answer>No</answer>.\n"
        f"Types: {', '.join(leaves())}."
    )


def render_question(category: str, view: str) -> str:
    """The user's request for one image."""
    shown = f"{category_name(category)}, view {view}" if view != "default" else category_name(category)
    return f"Object: {shown}. Is there a defect in this image? If so, where is it and of which type?"


def render_messages(trajectory: Trajectory, category: str, view: str) -> list[Message]:
    """Chat messages; each ``{"type": "image"}`` stands for the next image: the inspected one, then the observations."""
    chat = prompt(category, view)
    for turn in trajectory.turns[:-1]:
        assert turn.call is not None and turn.observation is not None
        function = {"name": turn.call.tool, "arguments": turn.call.arguments}
        chat.append(
            {
                "role": "assistant",
                "content": [_text(f"<think>{turn.thought}</think>")],
                "tool_calls": [{"type": "function", "function": function}],
            }
        )
        shown: list[Message] = [{"type": "image"}] if turn.observation.image_sha256 else []
        chat.append({"role": "tool", "name": turn.call.tool, "content": [*shown, _text(turn.observation.text)]})
    chat.append({"role": "assistant", "content": [_text(render_final_turn(trajectory))]})
    return chat


def flatten_for_endpoint(chat: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> list[Message]:
    """The same chat for servers that refuse images in a tool turn or text beside a call: both written out as text.

    It is rendered to the same tokens, since Qwen's template writes a tool turn as one of the user's.

    Args:
        chat: Messages.
        tools: Schemas to be written into the system's turn, for a server that is not told of tools otherwise: one that
            is may take a turn apart, and what it leaves out would be lost.
    """
    found: list[Message] = []
    for place, message in enumerate(chat):
        written = _written_out(message)
        if place and message["role"] == chat[place - 1]["role"] == "tool":
            # The template joins the tool turns that follow one another.
            found[-1]["content"] += [_text("\n"), *written["content"]]
        else:
            found.append(written)
    if tools and found and found[0]["role"] == "system":
        found[0] = {**found[0], "content": [*found[0]["content"], _text(_tools_in_words(tools))]}
    return found


def _tools_in_words(tools: Sequence[dict[str, Any]]) -> str:
    """What Qwen3-VL's template adds to the system's turn, to the letter."""
    listed = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
    return (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def _written_out(message: Message) -> Message:
    content = message["content"]
    if message["role"] == "tool":
        return {"role": "user", "content": [_text("<tool_response>\n"), *content, _text("\n</tool_response>")]}
    calls = [
        f"\n<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", [])
    ]
    return {"role": message["role"], "content": [*content, *map(_text, calls)]}


def prompt(category: str, view: str, *, tools: bool = True) -> list[Message]:
    """The messages before the first word of the inspector, who may have no tools."""
    return [
        {"role": "system", "content": [_text(system_prompt(tools))]},
        {"role": "user", "content": [{"type": "image"}, _text(render_question(category, view))]},
    ]


def render_tags(trajectory: Trajectory) -> str:
    """The trajectory in the tags of arXiv 2605.20682, images as ``<image sha256="…">``."""
    parts = []
    for turn in trajectory.turns[:-1]:
        assert turn.call is not None and turn.observation is not None
        call = json.dumps({"name": turn.call.tool, "arguments": turn.call.arguments}, ensure_ascii=False)
        shown = f'<image sha256="{turn.observation.image_sha256}">' if turn.observation.image_sha256 else ""
        parts.append(f"<think>{turn.thought}</think><call_tool>{call}</call_tool>")
        parts.append(f"<observation>{shown}{turn.observation.text}</observation>")
    return "".join([*parts, render_final_turn(trajectory)])


def render_final_turn(trajectory: Trajectory) -> str:
    """The last assistant turn: thought, then location and type with Yes, then the answer."""
    return f"<think>{trajectory.turns[-1].thought}</think>{render_verdict(trajectory.verdict)}"


def render_verdict(verdict: Verdict) -> str:
    """The verdict's tags."""
    if verdict.answer == "No":
        return "<answer>No</answer>"
    return f"<location>{_boxes(verdict.boxes)}</location><type>{verdict.defect_type}</type><answer>Yes</answer>"


def _boxes(boxes: list[Box]) -> str:
    return json.dumps([list(box) for box in boxes])


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
