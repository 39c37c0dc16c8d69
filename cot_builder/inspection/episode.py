"""The agent loop of evaluation: a policy writes turns and the tools answer, until the inspection ends.

The loop follows the rollouts of GRPO. All calls of a turn are run, and at most ``rounds`` turns with calls are
answered. The next turn is the last one: if it is a tool call, the episode ends without a verdict. The policy reads its
own turns verbatim, except that control tokens in them are made harmless.
"""

import io
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from cot_builder.inspection.rendering import Message, text_part
from cot_builder.inspection.toolbox import Toolbox, make_chat_safe, tool_schemas
from schemas.trajectory import Observation, ToolCall

MALFORMED = "malformed"
"""Tool name that is recorded for a call that cannot be parsed."""
MAX_CALLS = 8
"""Maximum number of calls of one turn that are run. A turn in a loop may contain hundreds."""
CUT_MARK = "…"
"""Appended to a turn that reached the token limit, so that it cannot be parsed as a complete turn."""
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
    """Whether the turn reached the token limit."""
    usd: float = 0.0


TurnGenerator = Callable[[Sequence[Sequence[Message]]], Sequence[GeneratedTurn]]
"""Generates the next turn of each chat. The chats contain PIL images, in tool turns too."""


class Step(NamedTuple):
    """One turn with the observations of its calls."""

    text: str
    observations: tuple[tuple[Observation, bytes | None], ...]
    """Each observation with the PNG bytes of its image or None."""


@dataclass
class Episode:
    """State of a running inspection."""

    prompt: list[Message]
    """Messages with PIL images in them."""
    toolbox: Toolbox
    tools: Collection[str]
    """Names of the offered tools. Calls of other tools are refused."""
    rounds: int
    """Maximum number of turns with calls that are answered."""
    chat: list[Message] = field(init=False)
    """Messages that the policy reads: the prompt, its own turns verbatim, the observations."""
    completion: list[Message] = field(default_factory=list)
    """Messages after the prompt, with calls separated from the text, for parsers and rewards."""
    steps: list[Step] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    """Names of the called tools in order, including refused calls."""
    observed: int = 0
    """Number of calls that returned no error."""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    cut: bool = False
    """Whether the last turn reached the token limit."""
    done: bool = False

    def __post_init__(self) -> None:
        self.chat = list(self.prompt)

    def add_turn(self, written: GeneratedTurn) -> None:
        """Add a turn of the policy and run its calls. Without a call to run, the episode is done."""
        # Replace lone surrogates, which a server may send in JSON escapes: they cannot be encoded.
        encodable = written.text.encode(errors="replace").decode()
        text = encodable + CUT_MARK if written.cut else encodable
        self.input_tokens += written.input_tokens
        self.output_tokens += written.output_tokens
        self.usd += written.usd
        self.cut = written.cut
        message = read_turn(text)
        self.chat.append({"role": "assistant", "content": [text_part(make_chat_safe(text))]})
        self.completion.append(message)
        answered = sum(bool(step.observations) for step in self.steps)
        calls = message.get("tool_calls", ())
        observations = []
        if answered < self.rounds:
            for number, call in enumerate(calls):
                name, observation, png = self._run_call(call, number)
                observations.append((observation, png))
                shown = [{"type": "image", "image": _open_png(png)}] if png else []
                turn = {"role": "tool", "name": name, "content": [*shown, text_part(observation.text)]}
                self.chat.append(turn)
                self.completion.append(turn)
        else:
            self.calls += [_get_tool_name(call) for call in calls]
        self.steps.append(Step(text, tuple(observations)))
        self.done = not observations

    def _run_call(self, call: Any, number: int) -> tuple[str, Observation, bytes | None]:
        name = _get_tool_name(call)
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
    """Run episodes to their end, ``at_once`` of them in parallel. When one is done, the next one starts.

    Args:
        episodes: Episodes to run. The iterator is advanced only when there is room for the next one.
        write: The policy.
        at_once: Number of chats in a batch.

    Yields:
        Each episode when it is done.
    """
    for done in run_episodes_by_round(episodes, write, at_once):
        yield from done


def run_episodes_by_round(episodes: Iterable[Episode], write: TurnGenerator, at_once: int) -> Iterator[list[Episode]]:
    """Like :func:`run_episodes`, but yield the episodes that end in the same batch together."""
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
        return {"role": "assistant", "content": [text_part(text)]}
    functions = [_parse_function(body) for _, body, _ in bodies]
    message: Message = {
        "role": "assistant",
        "content": [text_part(_CALL.sub("", text).rstrip("\n"))],
        "tool_calls": [{"type": "function", "function": function} for function, _ in functions],
    }
    if any(before or after for before, _, after in bodies) or not all(exact for _, exact in functions):
        message["form_faults"] = ["a call is not written in the exact form"]
    return message


def select_schemas(tools: Collection[str]) -> list[dict[str, Any]] | None:
    """Return the schemas of the given tools in the order of the toolbox; None if there are no tools."""
    return [schema for schema in tool_schemas() if schema["function"]["name"] in tools] or None


def _parse_function(body: str) -> tuple[dict[str, Any] | None, bool]:
    """Parse the function of a call, None if impossible; and return whether it is written in the exact form."""
    function = _parse_json_object(body)
    if function is not None and isinstance(function.get("arguments"), dict):
        return function, True
    if function is None:
        unfenced = _FENCES.sub("", body)
        function = _parse_json_object(unfenced) or _parse_xml_function(unfenced)
    if function is None:
        return None, True
    if isinstance(function.get("arguments"), str):
        arguments = _parse_json_object(function["arguments"])
        function |= {} if arguments is None else {"arguments": arguments}
    return function, not isinstance(function.get("arguments"), dict)


def _parse_json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
        # Reject lone surrogates: they cannot be encoded.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parse_xml_function(body: str) -> dict[str, Any] | None:
    """Parse a call in Qwen-Coder's form: ``<function=NAME><parameter=NAME>value</parameter></function>``."""
    match = _XML_CALL.fullmatch(body)
    if match is None or _XML_PARAMETER.sub("", match[2]).strip():
        return None
    return {
        "name": match[1],
        "arguments": {name: _parse_xml_value(text) for name, text in _XML_PARAMETER.findall(match[2])},
    }


def _parse_xml_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text.strip()


def _get_tool_name(call: Any) -> str:
    function = call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return MALFORMED
    name = function.get("name")
    return name if isinstance(name, str) and name else MALFORMED


def _open_png(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))
