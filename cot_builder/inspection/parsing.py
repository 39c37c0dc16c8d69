"""What an inspector wrote, read strictly: the inverse of :mod:`cot_builder.inspection.rendering`.

Nothing is repaired and nothing is guessed: a text that does not follow the grammar to its last character has no
verdict. A verdict that can be read in two ways would let its author take the better one.
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
"""How `transformers` takes a generated turn apart; to be set as ``tokenizer.response_template``.

TRL's own for Qwen3-VL moves thoughts to ``reasoning_content`` and keeps the last piece of the text only: of
``<think>…</think><answer>No</answer><think>…</think><answer>Yes</answer>`` the Yes would be left, and a second
guess would cost nothing. Here a turn without calls stays whole. Of a turn with calls the last piece of the text is
left; it holds no verdict, whatever it says.
"""
_THOUGHT = re.compile(r"<think>[^<>]+</think>")
_UNSAID = "<think>…</think>"
_FAILED = ("error:", "{'error':")
"""How the observation of a failed call begins: refused by the toolbox, or raised and caught by TRL."""


def behind_a_thought(completion: Sequence[Message]) -> list[Message]:
    """A verdict that was learned without thoughts, as the control arm of SFT learns it, in the form that is read."""
    *before, last = completion
    return [*before, {**last, "content": [{"type": "text", "text": _UNSAID + last["content"][0]["text"]}]}]


class GrammarError(ValueError):
    """A text that does not follow the grammar; says where."""


@dataclass(frozen=True)
class Reading:
    """What a completion holds."""

    verdict: Verdict | None
    """None where the last turn is none, is cut off, or does not follow the grammar."""
    calls: int
    """Calls of a tool there is, with all arguments it needs and no other; whatever came back."""
    observed: int
    """Of these, the ones that returned something other than an error."""
    faults: tuple[str, ...]
    """What does not follow the grammar; empty where all does."""


def read_verdict(text: str) -> Verdict:
    """The verdict of a last turn.

    Raises:
        GrammarError: the text is not, from its first character to its last, one thought without tags, then either
            location, type and Yes, or No; a box is none in 0-1000; the type is not in the taxonomy.
    """
    if not ANSWER_GRAMMAR.fullmatch(text):
        raise GrammarError("the last turn is not a thought and one verdict")
    if text.endswith("<answer>No</answer>"):
        return Verdict(answer="No")
    _, location, kind, _ = re.split(r"<location>|</location><type>|</type>", text)
    if kind not in leaves():
        raise GrammarError(f"no type {kind!r} in the taxonomy")
    try:
        return Verdict(answer="Yes", boxes=json.loads(location), defect_type=kind)
    except ValueError:
        # JSON knows no number with leading zeros; a verdict knows no box outside 0-1000.
        raise GrammarError(f"no boxes in 0-1000: {location[:80]}") from None


def read(completion: Sequence[Message]) -> Reading:
    """Read the messages that follow a prompt: turns with one call each and their observations, then the last turn.

    Args:
        completion: Messages as TRL hands them to rewards with :data:`RESPONSE_TEMPLATE`, or as
            :func:`cot_builder.inspection.rendering.messages` renders them. The observations come from the tools and
            are never the inspector's own words.

    Raises:
        IndusCotError: thoughts were moved out of the text, so that what was written where is lost.
    """
    if any("reasoning_content" in message for message in completion):
        raise IndusCotError(
            "completions were parsed with thoughts taken out of their place, which hides second answers; set "
            "tokenizer.response_template to cot_builder.inspection.parsing.RESPONSE_TEMPLATE"
        )
    faults: list[str] = []
    calls = observed = 0
    # TRL runs the calls of a turn in order and appends their observations; a turn that did not fit has none.
    pending: list[bool] = []
    for message in completion:
        if message.get("role") == "tool":
            valid = pending.pop(0) if pending else False
            observed += valid and not _text(message).startswith(_FAILED)
            continue
        pending = [_is_valid(call) for call in message.get("tool_calls") or ()]
        calls += sum(pending)
        if pending:
            faults += _faults_of_a_step(message, pending)
    verdict = None
    try:
        verdict = read_verdict(_last_words(completion))
    except GrammarError as fault:
        faults.append(str(fault))
    return Reading(verdict, calls, observed, tuple(faults))


def _faults_of_a_step(message: Message, valid: list[bool]) -> list[str]:
    faults = []
    if not _THOUGHT.fullmatch(_text(message)):
        faults.append("a turn with a call is not one thought and the call")
    if len(valid) > 1:
        faults.append("several calls in one turn")
    if not all(valid):
        faults.append("a call of no tool there is, or without the arguments it takes")
    return faults


def _last_words(completion: Sequence[Message]) -> str:
    last = completion[-1] if completion else {}
    if last.get("role") != "assistant" or last.get("tool_calls"):
        raise GrammarError("it ends without a verdict")
    return _text(last)


def _is_valid(call: Any) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or set(function) != {"name", "arguments"}:
        return False
    name, arguments = function["name"], function["arguments"]
    tools = _arguments(tuple(TOOLS))
    if not isinstance(name, str) or name not in tools or not isinstance(arguments, dict):
        return False
    required, known = tools[name]
    return required <= set(arguments) <= known


@lru_cache(maxsize=1)
def _arguments(names: tuple[str, ...]) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """The arguments each of these tools needs, and those it knows; another program may add tools while it runs."""
    functions = [TOOLS[name].schema["function"] for name in names]
    return {
        function["name"]: (
            frozenset(function["parameters"]["required"]),
            frozenset(function["parameters"]["properties"]),
        )
        for function in functions
    }


def _text(message: Message) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
