"""Parses an inspector's messages: the inverse of :mod:`cot_builder.inspection.rendering`.

Meaning and form are two results. The meaning is a verdict, which must be unambiguous: exactly one, after the last
thought, complete. A text with two answers, an answer within a thought, a hedge or a truncated end has none, because its
author could otherwise take the better one. The form is exact if the text follows
:data:`cot_builder.inspection.rendering.ANSWER_GRAMMAR` to the character. Deviations of form that leave one possible
meaning keep their verdict and are listed as faults: white space between tags and within JSON, a single flat box,
floats without a fraction, the case of Yes, No and of a type, several thoughts, and "<" in a thought that opens no tag.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cot_builder.inspection.rendering import ANSWER_GRAMMAR, Message
from cot_builder.inspection.tools import TOOLS
from schemas.errors import IndusCotError
from schemas.taxonomy import leaves
from schemas.trajectory import Verdict

RESPONSE_TEMPLATE: dict[str, Any] = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
"""Template by which `transformers` parses a generated turn; set ``tokenizer.response_template`` to it.

TRL's own template for Qwen3-VL moves thoughts to ``reasoning_content`` and keeps only the last piece of the text. From
``<think>…</think><answer>No</answer><think>…</think><answer>Yes</answer>`` it would keep the Yes, so that a second
guess would cost nothing. With this template, a turn without calls is kept complete. Of a turn with calls, only the last
piece of the text is kept; such a turn never counts as a verdict.
"""
_EXACT_THOUGHT = re.compile(r"<think>[^<>]+</think>")
_TAG = r"</?\s*(?:think(?:ing)?|answer|location|type|tool_call|call_tool|tool_response|observation)\b|<\|"
_VERDICT = re.compile(
    rf"\s*(?:<think>(?!\s*</think>)(?:(?!{_TAG}).)+</think>\s*)+"
    rf"(?:<location>(?P<location>(?:(?!{_TAG}).)*)</location>\s*<type>(?P<type>(?:(?!{_TAG}).)*)</type>\s*"
    r"<answer>\s*yes\s*</answer>|<answer>\s*no\s*</answer>)\s*",
    re.DOTALL | re.IGNORECASE,
)
"""Tolerant grammar of the last turn. A thought must contain no tag of the grammar, open or closed, in any case."""
_COORDINATE = re.compile(r"\d{1,4}(?:\.0+)?", re.ASCII)
_PLACEHOLDER_THOUGHT = "<think>…</think>"
_FAILED = ("error:", "{'error':")
"""Beginnings of the observation of a failed call: refused by the toolbox, or an exception caught by TRL."""


def add_placeholder_thought(completion: Sequence[Message]) -> list[Message]:
    """Put a placeholder thought before a verdict without thoughts, so that it can be parsed.

    The control arm of SFT learns verdicts without thoughts.
    """
    *before, last = completion
    return [*before, {**last, "content": [{"type": "text", "text": _PLACEHOLDER_THOUGHT + last["content"][0]["text"]}]}]


class GrammarError(ValueError):
    """A text that does not follow the grammar. The message says where."""


@dataclass(frozen=True)
class ParsedCompletion:
    """Content of a completion."""

    verdict: Verdict | None
    """None if the last turn holds no unambiguous, complete verdict."""
    calls: int
    """Number of calls of a known tool with valid argument names, including those that returned an error."""
    observed: int
    """Number of these calls that returned something other than an error."""
    faults: tuple[str, ...]
    """Deviations from the exact form; empty if the whole completion has it."""
    exact_verdict: bool
    """Whether the last turn holds a verdict in the exact form."""


def read_verdict(text: str) -> tuple[Verdict, str]:
    """Parse the last turn.

    Returns:
        The verdict, and the deviation from the exact form; empty if the text has the exact form.

    Raises:
        GrammarError: the turn is not thoughts without tags followed by either location, type and Yes, or No; a box is
            not within 0-1000; the type is not in the taxonomy.
    """
    match = _VERDICT.fullmatch(text)
    if match is None:
        raise GrammarError("the last turn is not a thought and one verdict")
    fault = "" if ANSWER_GRAMMAR.fullmatch(text) else "the last turn is not written in the exact form"
    if match["location"] is None:
        return Verdict(answer="No"), fault
    kind = match["type"].strip()
    name = kind.casefold()
    if name not in leaves():
        raise GrammarError(f"no type {kind[:80]!r} in the taxonomy")
    try:
        return Verdict(answer="Yes", boxes=_parse_boxes(match["location"]), defect_type=name), fault
    except (ValueError, RecursionError):
        raise GrammarError(f"no boxes in 0-1000: {match['location'][:80]}") from None


def _parse_boxes(text: str) -> list[Any]:
    """Parse the boxes of a location: a JSON list of boxes, or one box.

    Raises:
        ValueError: the text is something else.
    """
    value = json.loads(
        text, parse_float=_parse_coordinate, parse_int=_parse_coordinate, parse_constant=_parse_coordinate
    )
    boxes = [value] if isinstance(value, list) and value and not isinstance(value[0], list) else value
    if not isinstance(boxes, list) or not all(isinstance(box, list) and {*map(type, box)} == {int} for box in boxes):
        raise ValueError("no list of boxes")
    return boxes


def _parse_coordinate(number: str) -> int:
    if not _COORDINATE.fullmatch(number):
        raise ValueError(f"{number[:20]} is no coordinate")
    return int(number.partition(".")[0])


def parse_completion(completion: Sequence[Message]) -> ParsedCompletion:
    """Parse the messages after a prompt: turns with calls and their observations, then the last turn.

    Args:
        completion: Messages as TRL hands them to rewards with :data:`RESPONSE_TEMPLATE`, or as
            :func:`cot_builder.inspection.rendering.render_messages` renders them. The observations come from the
            tools and are never the inspector's own words.

    Raises:
        IndusCotError: thoughts were moved out of the text, so that their positions are lost.
    """
    if any("reasoning_content" in message for message in completion):
        raise IndusCotError(
            "thoughts were moved out of the completions by the parser, which hides second answers; set "
            "tokenizer.response_template to cot_builder.inspection.parsing.RESPONSE_TEMPLATE"
        )
    faults: list[str] = []
    calls = observed = 0
    # TRL runs the calls of a turn in order and appends their observations. A turn without room for them has none.
    pending: list[bool] = []
    for message in completion:
        if message.get("role") == "tool":
            valid = pending.pop(0) if pending else False
            observed += valid and not get_text(message).startswith(_FAILED)
            continue
        pending = [_is_valid(call) for call in message.get("tool_calls") or ()]
        calls += sum(pending)
        if pending:
            faults += _find_step_faults(message, pending)
        faults += message.get("form_faults", ())
    verdict = None
    try:
        verdict, fault = read_verdict(_get_last_turn(completion))
    except GrammarError as error:
        fault = str(error)
    faults += [fault] if fault else []
    return ParsedCompletion(verdict, calls, observed, tuple(faults), verdict is not None and not fault)


def _find_step_faults(message: Message, valid: list[bool]) -> list[str]:
    faults = []
    if not _EXACT_THOUGHT.fullmatch(get_text(message)):
        faults.append("a turn with a call is not one thought and the call")
    if len(valid) > 1:
        faults.append("several calls in one turn")
    if not all(valid):
        faults.append("a call of an unknown tool, or with missing or unknown arguments")
    return faults


def _get_last_turn(completion: Sequence[Message]) -> str:
    last = completion[-1] if completion else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        raise GrammarError("the completion ends without a verdict")
    return get_text(last)


def _is_valid(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or set(function) != {"name", "arguments"}:
        return False
    name, arguments = function["name"], function["arguments"]
    tools = _list_arguments(tuple(TOOLS))
    if not isinstance(name, str) or name not in tools or not isinstance(arguments, dict):
        return False
    required, known = tools[name]
    return required <= set(arguments) <= known


@lru_cache(maxsize=1)
def _list_arguments(names: tuple[str, ...]) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """Return the required and the known arguments of each tool.

    The names are an argument, so that the cache is renewed when a program registers another tool.
    """
    functions = [TOOLS[name].schema["function"] for name in names]
    return {
        function["name"]: (
            frozenset(function["parameters"]["required"]),
            frozenset(function["parameters"]["properties"]),
        )
        for function in functions
    }


def get_text(message: Message) -> str:
    """Return the text of a message, whose content is a string or a list of parts."""
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
