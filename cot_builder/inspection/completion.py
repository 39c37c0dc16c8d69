"""Parses the completion of an inspector, given as text or chat messages, into thoughts, calls and verdict."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cot_builder.inspection.episode import read_turn
from cot_builder.inspection.parsing import GrammarError, get_text, parse_completion, read_verdict
from cot_builder.inspection.rendering import Message
from schemas.errors import IndusCotError
from schemas.trajectory import Observation, ToolCall, Trajectory, Turn, Verdict

_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_THOUGHT_THEN_REST = re.compile(r"<think>(.*)</think>(.*)", re.DOTALL)
_TAGGED_STEP = re.compile(
    r"\s*(?P<thought><think>.*?</think>)\s*<call_tool>(?P<call>.*?)</call_tool>\s*"
    r'<observation>(?:<image sha256="[0-9a-f]{64}">)?(?P<text>.*?)</observation>\s*',
    re.DOTALL,
)


@dataclass(frozen=True)
class Completion:
    """Parsed text that an inspector wrote after the prompt."""

    thoughts: tuple[str, ...]
    """Texts between ``<think>`` and ``</think>``, in order."""
    calls: tuple[ToolCall, ...]
    """Calls that are JSON with a name and arguments, in order. A call of an unknown tool is among them and a fault."""
    verdict: Verdict | None
    """None if the last turn is missing, is cut off or has more or less than one possible meaning."""
    faults: tuple[str, ...]
    """Deviations from the exact form, one sentence each; empty if there are none."""


def read_completion(written: str | Sequence[Message]) -> Completion:
    """Read a completion. Deviations in form are faults and keep their verdict; an ambiguous verdict is no verdict.

    Args:
        written: One of three forms. Chat messages after the prompt, as TRL hands them to rewards (set
            ``tokenizer.response_template`` to ``RESPONSE_TEMPLATE`` first). One assistant turn as text, with its calls
            in ``<tool_call>``. A whole inspection as text in the tags of arXiv 2605.20682 (``<call_tool>``,
            ``<observation>``).

    Returns:
        Thoughts, calls, verdict and faults. Boxes of the verdict are integers 0-1000 of the original image.

    Raises:
        IndusCotError: the messages were parsed in a way that lost the place of the thoughts.

    Example:
        >>> read_completion("<think>The rim is even.</think><answer>No</answer>").verdict.answer
        'No'
    """
    messages = _split_turns(written) if isinstance(written, str) else list(written)
    reading = parse_completion(messages)
    own = [message for message in messages if message.get("role") == "assistant"]
    thoughts = [thought for message in own for thought in _THOUGHT.findall(get_text(message))]
    calls = [_parse_call(call) for message in own for call in message.get("tool_calls") or ()]
    return Completion(tuple(thoughts), tuple(call for call in calls if call), reading.verdict, reading.faults)


def read_chat(chat: Sequence[Message], image_hashes: Sequence[str], where: str) -> Trajectory:
    """Read the trajectory of a corpus row's chat.

    This is the inverse of :func:`cot_builder.inspection.rendering.render_messages`.

    Args:
        chat: Messages, the prompt included.
        image_hashes: sha256 of every observation image, in order.
        where: File and row, for messages.

    Raises:
        IndusCotError: the chat is not the rendering of a trajectory.
    """
    hashes = iter(image_hashes)
    turns: list[Turn] = []
    try:
        *steps, last = [message for message in chat if message["role"] in ("assistant", "tool")]
        for assistant_turn, tool_turn in zip(steps[::2], steps[1::2], strict=True):
            (call,) = assistant_turn["tool_calls"]
            shown = any(part["type"] == "image" for part in tool_turn["content"])
            observation = Observation(text=get_text(tool_turn), image_sha256=next(hashes) if shown else None)
            tool_call = ToolCall(tool=call["function"]["name"], arguments=call["function"]["arguments"])
            turns.append(Turn(thought=_split_thought(assistant_turn)[0], call=tool_call, observation=observation))
        thought, verdict = _split_thought(last)
        # Parse the thought separately, because the verdict grammar allows no tag within it.
        return Trajectory(turns=[*turns, Turn(thought=thought)], verdict=read_verdict(f"<think>.</think>{verdict}")[0])
    except (GrammarError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise IndusCotError(f"{where}: messages are not an inspection ({error!r}); load an Indus-CoT corpus") from None


def _split_thought(message: Message) -> tuple[str, str]:
    """Split a turn into its thought and the text after it."""
    found = _THOUGHT_THEN_REST.fullmatch(get_text(message))
    if not found:
        raise GrammarError("a turn does not begin with a thought")
    return found[1], found[2]


def _split_turns(text: str) -> list[Message]:
    """Split a text into turns. A text with ``<observation>`` has several turns, any other text is one turn."""
    messages: list[Message] = []
    end = 0
    while step := _TAGGED_STEP.match(text, end):
        function = _parse_json(step["call"])
        name = function.get("name") if isinstance(function, dict) else None
        call = {"type": "function", "function": function}
        messages.append({"role": "assistant", "content": step["thought"], "tool_calls": [call]})
        messages.append({"role": "tool", "name": name, "content": step["text"]})
        end = step.end()
    return [*messages, read_turn(text[end:])]


def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse_call(call: Any) -> ToolCall | None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return None
    try:
        return ToolCall.model_validate({"tool": function.get("name"), "arguments": function.get("arguments")})
    except ValidationError:
        return None
