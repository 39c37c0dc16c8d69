"""One inspection from its prompt to its end: the policy writes, the tools answer. Evaluation's agent loop.

It follows the rollouts of GRPO: every call of a turn is run, at most ``rounds`` turns with calls are answered, and the
turn after them is the last one whatever it holds. Nobody asks a policy that calls a tool there for its verdict: it has
had its say, and has none. What the policy wrote goes back to it
to the letter, but for control tokens that it spelled out.
"""

import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from cot_builder.inspection.rendering import Message
from cot_builder.inspection.toolbox import Toolbox, make_chat_safe, tool_schemas
from schemas.trajectory import Observation, ToolCall

MALFORMED = "malformed"
"""Stands for the name of a tool in a call that could not be read."""
MAX_CALLS = 8
"""Calls of one turn that are run; a turn that repeats itself may hold hundreds."""
CUT_MARK = "…"
"""Follows a turn that reached its limit of tokens, so that it cannot be taken for a whole one."""
_CALL = re.compile(r"(```\w*\s*)?<tool_call>(.*?)</tool_call>\s*(```\s*)?", re.DOTALL)
_FENCES = re.compile(r"^\s*```\w*\s*|\s*```\s*$")
_XML_CALL = re.compile(r"\s*<function=(\w+)>(.*)</function>\s*", re.DOTALL)
_XML_PARAMETER = re.compile(r"<parameter=(\w+)>(.*?)</parameter>", re.DOTALL)


class GeneratedTurn(NamedTuple):
    """One turn as a model wrote it, without its end-of-turn token."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0
    cut: bool = False
    """It reached the limit of tokens."""
    usd: float = 0.0


TurnGenerator = Callable[[Sequence[Sequence[Message]]], Sequence[GeneratedTurn]]
"""The next turn of each chat. Images stand in place, as PIL, in tool turns too."""


class Step(NamedTuple):
    """One turn, and what came back of its calls."""

    text: str
    observations: tuple[tuple[Observation, bytes | None], ...]


@dataclass
class Episode:
    """An inspection under way."""

    prompt: list[Message]
    """Images in place."""
    toolbox: Toolbox
    tools: Collection[str]
    """Names of the tools the policy is told of; a call of any other is refused."""
    rounds: int
    """Turns with calls that are answered, at most."""
    chat: list[Message] = field(init=False)
    """What the policy reads: the prompt, its own turns to the letter, the observations."""
    completion: list[Message] = field(default_factory=list)
    """What followed the prompt, calls apart from the text, as parsers and rewards take it."""
    steps: list[Step] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """Names of the calls in order, refused ones too."""
    observed: int = 0
    """Calls that returned something other than an error."""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    cut: bool = False
    """The last turn reached the limit of tokens."""
    done: bool = False

    def __post_init__(self) -> None:
        self.chat = list(self.prompt)

    def add_turn(self, written: GeneratedTurn) -> None:
        """Add a turn; run its calls, or end."""
        # Half a character, as a server may escape it, can be written nowhere.
        said = written.text.encode(errors="replace").decode()
        text = said + CUT_MARK if written.cut else said
        self.input_tokens += written.input_tokens
        self.output_tokens += written.output_tokens
        self.usd += written.usd
        self.cut = written.cut
        message = read_turn(text)
        self.chat.append({"role": "assistant", "content": [_text(make_chat_safe(text))]})
        self.completion.append(message)
        answered = sum(bool(step.observations) for step in self.steps)
        calls = message.get("tool_calls", ())
        observations = []
        if answered < self.rounds:
            for number, call in enumerate(calls):
                name, observation, png = self._run(call, number)
                observations.append((observation, png))
                shown = [{"type": "image", "image": _picture(png)}] if png else []
                turn = {"role": "tool", "name": name, "content": [*shown, _text(observation.text)]}
                self.chat.append(turn)
                self.completion.append(turn)
        else:
            self.calls += [_name(call) for call in calls]
        self.steps.append(Step(text, tuple(observations)))
        self.done = not observations

    def _run(self, call: Any, number: int) -> tuple[str, Observation, bytes | None]:
        name = _name(call)
        self.calls.append(name)
        if number >= MAX_CALLS:
            return name, Observation(text=f"error: more than {MAX_CALLS} calls in one turn"), None
        if name == MALFORMED:
            return name, Observation(text='error: a call is JSON of the form {"name": …, "arguments": {…}}'), None
        if name not in self.tools:
            there = f"there are {', '.join(self.tools)}" if self.tools else "there are none"
            return name, Observation(text=make_chat_safe(f"error: no tool {name!r}; {there}")), None
        function = call["function"]
        observation, png = self.toolbox.observe(ToolCall.model_construct(tool=name, arguments=function["arguments"]))
        self.observed += not observation.text.startswith("error:")
        return name, observation, png


def run_episodes(episodes: Iterable[Episode], write: TurnGenerator, at_once: int) -> Iterator[Episode]:
    """Carry inspections to their end, ``at_once`` of them at a time; who is done makes room for the next one.

    Args:
        episodes: Drawn only as far ahead as needed.
        write: The policy.
        at_once: Chats in a batch.

    Yields:
        Each one when it is done.
    """
    for done in run_episodes_by_round(episodes, write, at_once):
        yield from done


def run_episodes_by_round(episodes: Iterable[Episode], write: TurnGenerator, at_once: int) -> Iterator[list[Episode]]:
    """As :func:`inspect`; yields together those that ended with the same call of the policy."""
    left = iter(episodes)
    live: list[Episode] = []
    while True:
        while len(live) < at_once and (new := next(left, None)):
            live.append(new)
        if not live:
            return
        for episode, written in zip(live, write([episode.chat for episode in live]), strict=True):
            episode.add_turn(written)
        if done := [episode for episode in live if episode.done]:
            yield done
        live = [episode for episode in live if not episode.done]


def read_turn(text: str) -> Message:
    """Split an assistant turn into text and calls, as GRPO hands it to rewards; an unreadable call is ``None``.

    A call may also be written in Qwen-Coder's XML, within or around code fences, or with its arguments as a JSON
    string. It is run then, and ``form_faults`` of the message says so.
    """
    bodies = _CALL.findall(text)
    if not bodies:
        return {"role": "assistant", "content": [_text(text)]}
    functions = [_function(body) for _, body, _ in bodies]
    message: Message = {
        "role": "assistant",
        "content": [_text(_CALL.sub("", text).rstrip("\n"))],
        "tool_calls": [{"type": "function", "function": function} for function, _ in functions],
    }
    if any(before or after for before, _, after in bodies) or not all(exact for _, exact in functions):
        message["form_faults"] = ["a call is not written in the exact form"]
    return message


def select_schemas(tools: Collection[str]) -> list[dict[str, Any]] | None:
    """What a policy is told of these tools, in the toolbox's order; None of none."""
    return [schema for schema in tool_schemas() if schema["function"]["name"] in tools] or None


def _function(body: str) -> tuple[dict[str, Any] | None, bool]:
    """Function of a call, None if it cannot be read; and whether it is written in the exact form."""
    function = _json_object(body)
    if function is not None and isinstance(function.get("arguments"), dict):
        return function, True
    tolerated = function if function is not None else _json_object(_FENCES.sub("", body)) or _xml_function(body)
    if tolerated is None:
        return None, True
    if isinstance(tolerated.get("arguments"), str):
        tolerated |= {"arguments": _json_object(tolerated["arguments"]) or tolerated["arguments"]}
    return tolerated, not isinstance(tolerated.get("arguments"), dict)


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
        # Half a surrogate pair cannot be written anywhere.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _xml_function(body: str) -> dict[str, Any] | None:
    """A call as Qwen-Coder's template has it: ``<function=NAME><parameter=NAME>value</parameter></function>``."""
    match = _XML_CALL.fullmatch(_FENCES.sub("", body))
    if match is None or _XML_PARAMETER.sub("", match[2]).strip():
        return None
    return {"name": match[1], "arguments": {name: _xml_value(text) for name, text in _XML_PARAMETER.findall(match[2])}}


def _xml_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def _name(call: Any) -> str:
    function = call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return MALFORMED
    name = function.get("name")
    return name if isinstance(name, str) and name else MALFORMED


def _picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def _text(text: str) -> Message:
    return {"type": "text", "text": text}
