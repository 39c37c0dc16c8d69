"""Renders a trajectory as chat messages with native tool calls, or as text in the tags of the paper.

Training, rollouts and serving use the same functions."""

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
    """System prompt of the inspector; with ``tools=False`` it does not mention tools."""
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
    """Question of the user about one image."""
    shown = f"{category_name(category)}, view {view}" if view != "default" else category_name(category)
    return f"Object: {shown}. Is there a defect in this image? If so, where is it and of which type?"


def render_messages(trajectory: Trajectory, category: str, view: str) -> list[Message]:
    """Render a trajectory as chat messages. Each ``{"type": "image"}`` stands for the next image.

    The inspected image is the first one; the observations follow in order.
    """
    chat = prompt(category, view)
    for turn in trajectory.turns[:-1]:
        assert turn.call is not None and turn.observation is not None
        function = {"name": turn.call.tool, "arguments": turn.call.arguments}
        chat.append(
            {
                "role": "assistant",
                "content": [text_part(f"<think>{turn.thought}</think>")],
                "tool_calls": [{"type": "function", "function": function}],
            }
        )
        shown: list[Message] = [{"type": "image"}] if turn.observation.image_sha256 else []
        chat.append({"role": "tool", "name": turn.call.tool, "content": [*shown, text_part(turn.observation.text)]})
    chat.append({"role": "assistant", "content": [text_part(render_final_turn(trajectory))]})
    return chat


def flatten_for_endpoint(chat: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None) -> list[Message]:
    """Rewrite tool turns and calls of a chat as plain text.

    Some servers reject images in a tool turn, or text next to a call. The result is rendered to the same tokens,
    because Qwen's template writes a tool turn as a user turn.

    Args:
        chat: Messages.
        tools: Schemas to write into the system turn. Do not pass them to the server as well: a server that knows of
            tools may parse calls out of a turn and drop the rest of the text.
    """
    flat: list[Message] = []
    for index, message in enumerate(chat):
        rewritten = _flatten_message(message)
        if index and message["role"] == chat[index - 1]["role"] == "tool":
            # The template joins consecutive tool turns.
            flat[-1]["content"] += [text_part("\n"), *rewritten["content"]]
        else:
            flat.append(rewritten)
    if tools and flat and flat[0]["role"] == "system":
        flat[0] = {**flat[0], "content": [*flat[0]["content"], text_part(_render_tool_list(tools))]}
    return flat


def _render_tool_list(tools: Sequence[dict[str, Any]]) -> str:
    """Text that the template of Qwen3-VL adds to the system turn, character by character."""
    listed = "".join(f"\n{json.dumps(tool, ensure_ascii=False)}" for tool in tools)
    return (
        "\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within <tool_call></tool_call> "
        'XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
    )


def _flatten_message(message: Message) -> Message:
    content = message["content"]
    if message["role"] == "tool":
        return {
            "role": "user",
            "content": [text_part("<tool_response>\n"), *content, text_part("\n</tool_response>")],
        }
    calls = [
        f"\n<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", [])
    ]
    return {"role": message["role"], "content": [*content, *map(text_part, calls)]}


def prompt(category: str, view: str, *, tools: bool = True) -> list[Message]:
    """Messages before the first turn of the inspector: system prompt, image and question."""
    return [
        {"role": "system", "content": [text_part(system_prompt(tools))]},
        {"role": "user", "content": [{"type": "image"}, text_part(render_question(category, view))]},
    ]


def render_tags(trajectory: Trajectory) -> str:
    """Render a trajectory in the tags of arXiv 2605.20682, with images as ``<image sha256="…">``."""
    parts = []
    for turn in trajectory.turns[:-1]:
        assert turn.call is not None and turn.observation is not None
        call = json.dumps({"name": turn.call.tool, "arguments": turn.call.arguments}, ensure_ascii=False)
        shown = f'<image sha256="{turn.observation.image_sha256}">' if turn.observation.image_sha256 else ""
        parts.append(f"<think>{turn.thought}</think><call_tool>{call}</call_tool>")
        parts.append(f"<observation>{shown}{turn.observation.text}</observation>")
    return "".join([*parts, render_final_turn(trajectory)])


def render_final_turn(trajectory: Trajectory) -> str:
    """Render the last assistant turn: the thought, location and type for a Yes, and the answer."""
    return f"<think>{trajectory.turns[-1].thought}</think>{render_verdict(trajectory.verdict)}"


def render_verdict(verdict: Verdict) -> str:
    """Render a verdict in tags."""
    if verdict.answer == "No":
        return "<answer>No</answer>"
    return f"<location>{_render_boxes(verdict.boxes)}</location><type>{verdict.defect_type}</type><answer>Yes</answer>"


def _render_boxes(boxes: list[Box]) -> str:
    return json.dumps([list(box) for box in boxes])


def text_part(text: str) -> Message:
    """Return a text as a part of a message's content."""
    return {"type": "text", "text": text}
